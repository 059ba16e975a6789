"""Handing a choice over to trainers: one format a file."""

from hopfield_replay.analysis.exports.export import FORMATS, Written, export

__all__ = ["FORMATS", "Written", "export"]
