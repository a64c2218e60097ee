"""Run a model batch by batch, and show the input and output of its convolutions and linear layers at every call."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from torch import Tensor, nn

from compressor.batches import batch_length
from compressor.core import BatchDims
from compressor.reconstruction.pair import Arguments
from compressor.reconstruction.program import Program, Values, record, replaying
from compressor.reconstruction.solvable_layers import Site, SolvableLayer, find_layers


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One call of a layer on one batch."""

    layer: SolvableLayer
    site: Site
    batch: int  # its number
    images: int  # in the batch
    input: Tensor
    output: Tensor


class LayerVisitor:
    """A model whose layers are visited; its forward pass is recorded once for every batch size."""

    def __init__(self, module: nn.Module, batches: Sequence[Arguments], batch_dims: BatchDims | None = None) -> None:
        """Record the first batch.

        Args:
            module: The model, in eval mode.
            batches: Inputs.
            batch_dims: Batch dimension of each input; None = the first of all.
        """
        self._module, self._batches, self._batch_dims = module, batches, batch_dims
        self._programs: dict[int, Program] = {}
        self.layers = {layer.weight: layer for layer in find_layers(self._program(batches[0]))}

    def visit(self, weights: Set[str], show: Callable[[LayerCall], None]) -> None:
        """Run all batches.

        Args:
            weights: Weights of the layers to visit.
            show: Called at every call of these layers.
        """
        stops = sorted(
            (
                (site.operation, layer, site)
                for layer in self.layers.values()
                for site in layer.sites
                if layer.weight in weights
            ),
            key=lambda stop: stop[0],
        )
        for number, inputs in enumerate(self._batches):
            program, images = self._program(inputs), batch_length(inputs, self._batch_dims)
            values: Values = dict(zip(program.inputs, inputs, strict=True))
            at = 0
            with replaying():
                for operation, layer, site in stops:
                    program.run(values, at, operation)
                    before = program.value(site.input, values)
                    program.run(values, operation, operation + 1)
                    at = operation + 1
                    if site.output in values:  # absent where nothing reads it
                        show(LayerCall(layer, site, number, images, before, values[site.output]))

    def _program(self, inputs: Arguments) -> Program:
        images = batch_length(inputs, self._batch_dims)
        if images not in self._programs:
            self._programs[images] = record(self._module, *inputs)
        return self._programs[images]
