"""What PyTorch answers to a batch, and how far rounding changes that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn

from compressor.execution.copies import copy_module
from compressor.execution.float64 import in_float64, widen
from compressor.export.tolerance import Array, FileRounding, max_abs

TRIALS = 4  # of noise
TIE_BREAK = 1e-6  # changes a score between 0 and 1 in its last digits

Batch = Sequence[Tensor]
"""a batch of each input of the module"""

Outputs = Callable[[nn.Module, Batch], list[Array]]


class Reference:
    """The outputs of a module for a batch. What rounding changes is computed where it is read, and once."""

    def __init__(
        self, module: nn.Module, batch: Batch, outputs: Outputs, rounding: FileRounding, trials: int = TRIALS
    ) -> None:
        """Compute the outputs.

        Args:
            module: The module in float32.
            batch: A batch.
            outputs: Computes the outputs.
            rounding: The noise, and the share of the largest value from which a change counts.
            trials: How often they are computed with noise.
        """
        self._module, self._batch, self._compute, self._trials = module, batch, outputs, trials
        self.rounding = rounding
        self.outputs = outputs(module, batch)

    @cached_property
    def in_float64(self) -> Sequence[Array]:
        """The outputs in float64; empty if the module cannot run in float64."""
        try:
            wide = copy_module(self._module).double()  # first: float32 buffers cannot be copied within `in_float64`
            with in_float64():
                return self._compute(wide, widen(self._batch))
        except Exception:  # a user's forward may raise anything when its types are not those it expects
            return []

    @cached_property
    def in_noise(self) -> Sequence[Sequence[Array]]:
        """The outputs of each trial, with noise like rounding after every layer."""
        return self._in_noise(least=0.0)

    def _in_noise(self, least: float) -> list[list[Array]]:
        with _perturbed(self._module, self.rounding.noise, least):
            return [self._compute(self._module, self._batch) for _ in range(self._trials)]

    def is_rounding_sensitive(self) -> bool:
        """Test whether rounding changes the outputs: their shapes, or values by more than the share that counts.

        Three kinds of rounding are tried: float64, which orders values that are equal in float32; noise like rounding
        after each layer; and noise of at least `TIE_BREAK`, because scores of outputs that are almost zero are equal
        whatever rounding does to these.
        """

        def _variants() -> Iterator[Sequence[Array]]:
            yield self.in_float64 or self.outputs
            yield from self.in_noise
            yield from self._in_noise(TIE_BREAK)

        return any(
            array.shape != expected.shape or max_abs(array - expected) > self.rounding.at_most * max_abs(expected)
            for variant in _variants()
            for array, expected in zip(variant, self.outputs, strict=True)
        )


@contextmanager
def _perturbed(module: nn.Module, noise: float, least: float) -> Iterator[None]:
    """Add seeded noise to the output of every layer, relative to its largest value but at least `least`."""
    random = torch.Generator().manual_seed(0)

    def _add_noise(_layer: nn.Module, _inputs: object, output: object) -> object:
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
            size = max(noise * float(output.abs().max()), least)
            return output + size * torch.randn(output.shape, generator=random)
        return output

    layers = [layer for layer in module.modules() if next(layer.children(), None) is None]
    handles = [layer.register_forward_hook(_add_noise) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
