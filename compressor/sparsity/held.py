"""Zeros that stay zero while their neighbours train."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class Held:
    """The constraint of fixed masks: gradients are masked before the optimizer's step, weights after it.

    Both are needed: a momentum that was there before revives a weight whose gradient is masked, and gradients that are
    not masked disturb what is averaged or clipped over all of them.
    """

    def __init__(self, module: nn.Module, masks: Mapping[str, Tensor]) -> None:
        parameters = {name: module.get_parameter(name) for name in masks}
        self._bound = [(parameters[name], ~mask.to(parameters[name].device)) for name, mask in masks.items()]

    def loss(self, iteration: int) -> None:
        """Nothing is added."""

    def on_gradients(self, iteration: int) -> None:
        for parameter, gone in self._bound:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(gone, 0)

    def on_weights(self, iteration: int) -> None:
        for parameter, gone in self._bound:
            parameter.data.masked_fill_(gone, 0)


def held(module: nn.Module, iterations: int, *, masks: Mapping[str, Tensor]) -> Held:
    """The constraint as a training binds it; it is the same in every iteration."""
    del iterations
    return Held(module, masks)
