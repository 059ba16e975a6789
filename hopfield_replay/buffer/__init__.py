"""Where samples are kept, and what is drawn of them."""

from hopfield_replay.buffer.buffer import EnergyReplayBuffer
from hopfield_replay.buffer.replay_batches import ReplayBatches
from hopfield_replay.buffer.replay_stream import ReplayStream
from hopfield_replay.buffer.verification import VerificationReport, verify

__all__ = ["EnergyReplayBuffer", "ReplayBatches", "ReplayStream", "VerificationReport", "verify"]
