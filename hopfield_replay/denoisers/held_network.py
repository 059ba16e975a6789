"""HeldNetwork: a network that is to answer for replayed samples as it did before the task."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.func import functional_call

from hopfield_replay.denoisers.doors import tensors_in, unseen
from hopfield_replay.functional.denoiser import evaluating
from hopfield_replay.utilities.states import DAMAGE, check_mapping


class HeldNetwork:
    r"""Distillation on replayed samples that the training step knows nothing of.

    Inside of :meth:`holding` each call of the network with gradients adds that of

    .. math:: \lambda \, \frac{1}{|R|} \sum_{i \in R} \overline{\bigl(f(z_i) - f_\mathrm{old}(z_i)\bigr)^2}

    to the loss's: R are the replayed samples, the last ones of the batch; :math:`z_i` is what the step calls the
    network with (noisy samples, times and conditions, as it drew them); the bar is the mean over an answer's numbers.
    :math:`f_\mathrm{old}` is the network in eval mode with the weights of :meth:`remember`. It takes one more forward
    pass, without gradients, and a copy of the weights that learn. The loss as the step returns it stays without.

    Args:
        network: what the step calls with one row for each sample of the batch.
        strength: :math:`\lambda` >= 0, beside a loss that is a mean.

    Attributes:
        calls: how many calls with gradients were seen.

    Raises:
        TypeError: a network that is no module, a strength that is no number.
        ValueError: a negative strength.

    Example:
        >>> network = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(network.weight)
        >>> held = HeldNetwork(network, strength=0.5)
        >>> held.remember()
        >>> _ = nn.init.constant_(network.weight, 3.0)
        >>> with held.holding(batch=2, replayed=1):
        ...     answers = network(torch.tensor([[7.0], [2.0]]))  # the second one is replayed
        >>> (0.0 * answers).sum().backward()
        >>> network.weight.grad  # of 0.5 (2 w - 2)^2 at w = 3
        tensor([[8.]])

    Source: on samples that the old model draws, Masip et al., arXiv:2311.14028; on kept ones, for classifiers, Buzzega
        et al., arXiv:2004.07211.
    """

    def __init__(self, network: nn.Module, strength: float) -> None:
        if not isinstance(network, nn.Module):
            raise TypeError(f"network must be a torch module, got {type(network).__name__}.")
        self.network, self.strength = network, check_strength(strength)
        self.calls = 0
        self._old: dict[str, Tensor] | None = None

    @property
    def remembers(self) -> bool:
        """Whether there is an old network."""
        return self._old is not None

    @property
    def nbytes(self) -> int:
        """Bytes of the old weights."""
        return sum(tensor.nbytes for tensor in (self._old or {}).values())

    def remember(self) -> None:
        """Take the network as it is now for the old one."""
        self._old = {name: tensor.detach().clone() for name, tensor in self._changing().items()}

    def holding(self, *, batch: int, replayed: int, scale: float = 1.0) -> AbstractContextManager[None]:
        """Hold the answers of calls inside.

        Args:
            batch: samples of the batch.
            replayed: how many of them are, the last ones; 0: calls are looked at, and left alone.
            scale: what gradients are multiplied by beside: a GradScaler's scale, over the batches that are summed (as
                Accelerate's backward divides by them: 1 / gradient_accumulation_steps).

        Raises:
            RuntimeError: nothing was remembered, and samples are replayed.
            ValueError: in a call: answers with other rows than the batch has; weights that learn and are not among
                those remembered.
        """
        if replayed and self._old is None:
            raise RuntimeError("HeldNetwork has no old network: call remember() before the task begins.")
        return self._hooked(partial(self._called, batch, replayed, scale))

    def state_dict(self) -> dict[str, Tensor]:
        """The old weights; empty without."""
        return dict(self._old or {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over old weights.

        Raises:
            ValueError: they are not this network's; nothing has changed then.
        """
        try:
            mine, given = self._changing(), check_mapping(state, "the old weights")
            if mine.keys() != given.keys():
                raise ValueError(f"other weights: {sorted(mine.keys() ^ given.keys())[:3]}")
            old = {name: given[name].detach().to(tensor.device, tensor.dtype).clone() for name, tensor in mine.items()}
            if other := [name for name, tensor in mine.items() if old[name].shape != tensor.shape]:
                raise ValueError(
                    f"{other[0]} has shape {tuple(old[other[0]].shape)}, not {tuple(mine[other[0]].shape)}"
                )
        except DAMAGE as error:
            raise ValueError(f"The old weights are not those of {type(self.network).__name__}: {error}.") from error
        self._old = old

    @property
    def _original(self) -> nn.Module:
        original: nn.Module = getattr(self.network, "_orig_mod", self.network)  # of a compiled one
        return original

    def _changing(self) -> dict[str, Tensor]:
        """Weights that learn, and buffers."""
        learning = {name: weight for name, weight in self._original.named_parameters() if weight.requires_grad}
        return {**learning, **dict(self._original.named_buffers())}

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the old network answers."""
        old = self._old or {}
        if new := [name for name, weight in self._changing().items() if name not in old and weight.requires_grad]:
            raise ValueError(
                f"{type(self.network).__name__} learns {new[0]}, which it did not when it was remembered; let it learn "
                "(requires_grad) before the task begins."
            )
        with torch.no_grad(), unseen(), evaluating(self._original):
            return functional_call(self._original, old, args, kwargs)

    @contextmanager
    def _hooked(self, hook: Callable[..., None]) -> Iterator[None]:
        handle = self.network.register_forward_hook(hook, with_kwargs=True)
        try:
            yield
        finally:  # what was called is held in its backward pass yet
            handle.remove()

    def _called(
        self,
        batch: int,
        replayed: int,
        scale: float,
        network: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> None:
        if not torch.is_grad_enabled():  # such as the old network's own call
            return
        answers = _answers(output)
        place = next((place for place, tensor in enumerate(answers) if tensor.requires_grad), None)
        if place is None:
            return
        answer = answers[place]
        self.calls += 1
        if answer.ndim == 0 or len(answer) != batch:
            raise ValueError(
                f"{type(network).__name__} answers with shape {tuple(answer.shape)} in a batch of {batch} samples: "
                "which rows are replayed cannot be told. Hold a network that is called with one row for each sample."
            )
        if not replayed or not self.strength:
            return
        rows = slice(batch - replayed, None)
        wanted = _answers(self._answer(args, kwargs))[place]
        difference = answer.detach()[rows].float() - wanted.detach()[rows].float()
        pull = torch.zeros_like(answer, dtype=torch.float32)
        pull[rows] = difference * (2.0 * self.strength * scale / difference.numel())
        _add_to_gradient(answer, pull)


def _answers(output: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]


def _add_to_gradient(answer: Tensor, extra: Tensor) -> None:
    """Add to what the backward pass brings to a tensor, unseen by hooks on the tensor itself."""
    edge, dtype = get_gradient_edge(answer), answer.dtype

    def add(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        own = gradients[edge.output_nr]
        held = extra.to(dtype) if own is None else own + extra.to(own.dtype)
        return (*gradients[: edge.output_nr], held, *gradients[edge.output_nr + 1 :])

    edge.node.register_prehook(add)


def check_strength(strength: Any) -> float:
    """Return a strength.

    Raises:
        TypeError: no number.
        ValueError: a negative or infinite one.
    """
    if isinstance(strength, bool) or not isinstance(strength, int | float):
        raise TypeError(f"strength must be a number, got {strength!r}.")
    if not 0.0 <= strength < float("inf"):
        raise ValueError(f"strength must be finite and at least 0, got {strength}.")
    return float(strength)


__all__ = ["HeldNetwork", "check_strength"]
