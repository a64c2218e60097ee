"""The samples of a layer: its input columns and its targets, at sampled output positions of every batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.execution.randomness import seeded_generator
from compressor.reconstruction.lockstep import Batch, Lockstep
from compressor.reconstruction.pair import ModelPair
from compressor.reconstruction.regression import aim_through, as_regression, kept_entries
from compressor.reconstruction.solvable_layers import SolvableLayer
from compressor.reconstruction.solver_options import ReconstructionSettings


@dataclass(frozen=True, slots=True)
class LayerSamples:
    """Samples of one batch. R samples, G groups, n input columns of a group, C output channels."""

    columns: Tensor  # (R, G, n)
    rows: Tensor  # (R, C), targets
    offset: Tensor  # (R, C), what a ReLU reads beside the scaled output


class LayerSampler:
    """Takes samples of a layer of the slim model, and of the dense layer that it is compared with."""

    def __init__(
        self, layer: SolvableLayer, dense: SolvableLayer, pair: ModelPair, settings: ReconstructionSettings
    ) -> None:
        """Choose the target.

        Args:
            layer: The layer as the slim model calls it.
            dense: The same layer as the dense model calls it.
            pair: Both models.
            settings: How layers are solved.
        """
        self._layer, self._dense, self._pair, self._settings = layer, dense, pair, settings
        site = layer.sites[0]
        most_features = settings.most_features if settings.mode == "sequential" else math.inf
        self.regression = as_regression(layer, pair.slim, pair.kept, most_features)
        self.aim = aim_through(site.affines, self.regression.channels, pair.slim)
        self.residual = (
            settings.residual
            and settings.mode == "sequential"
            and site.aim is not None
            and dense.sites[0].residual is not None
        )

    def sample(self, lockstep: Lockstep, call: int) -> Iterator[tuple[Batch, LayerSamples]]:
        """Take the samples of one of the layer's calls.

        Args:
            lockstep: The batches, which stand before this call or earlier.
            call: Index of the call.

        Yields:
            Each batch with its samples.
        """
        site, dense_site = self._layer.sites[call], self._dense.sites[call]
        if self._settings.mode == "parallel":
            for batch in lockstep.advance(dense_site.operation, 0):
                yield batch, self._of_dense_inputs(batch, call)
            return
        last = dense_site.operation
        if self.residual:
            assert dense_site.residual is not None
            last = dense_site.residual.operation
        for batch in lockstep.advance(last + 1, site.operation):
            yield batch, self._of_slim_inputs(batch, call)

    def _of_slim_inputs(self, batch: Batch, call: int) -> LayerSamples:
        """Samples of the slim layer's input and of the dense layer's output."""
        regression = self.regression
        values = self._pair.slim_program(batch.images).value(self._layer.sites[call].input, batch.slim)
        target = self._target(batch, call)
        positions = regression.positions(target, self._settings.positions, batch.images, self._draw(batch, call))
        rows = regression.targets(target, positions)
        offset = self.aim.shift.to(rows).expand_as(rows)
        if self.residual:
            rows = self.aim.before(rows)
            offset = offset + regression.targets(self._shortcut(batch, call), positions)
        return LayerSamples(regression.columns(values, target, positions), rows, offset)

    def _of_dense_inputs(self, batch: Batch, call: int) -> LayerSamples:
        """Samples of the dense layer's input, y = W x + b; the slim layer reads some of its columns."""
        program, site = self._pair.dense_program(batch.images), self._dense.sites[call]
        full = as_regression(self._dense, self._pair.dense, {})
        output = torch.empty(program.shapes[site.output], device="meta")
        positions = full.positions(output, self._settings.positions, batch.images, self._draw(batch, call))
        columns = full.columns(program.value(site.input, batch.dense), output, positions)
        kept_rows, kept_columns = kept_entries(self._dense, self._pair.kept, full.weight)
        rows = columns[:, 0] @ full.weight[0, kept_rows].to(columns).T
        if self._dense.bias is not None:
            rows = rows + self._pair.dense.get_parameter(self._dense.bias).detach()[kept_rows]
        return LayerSamples(columns[..., kept_columns], rows, self.aim.shift.to(rows).expand_as(rows))

    def _target(self, batch: Batch, call: int) -> Tensor:
        """The target of the layer's output on one batch; with a residual target, of the branch's output."""
        dense_site = self._dense.sites[call]
        dense = self._pair.dense_program(batch.images)
        if not self.residual:
            return self.regression.of_kept(dense.value(dense_site.output, batch.dense))
        assert dense_site.residual is not None
        total = self.regression.of_kept(dense.value(dense_site.residual.total, batch.dense))
        return total - self._shortcut(batch, call)

    def _shortcut(self, batch: Batch, call: int) -> Tensor:
        """The slim shortcut that the branch is added to."""
        residual = self._layer.sites[call].residual
        assert residual is not None
        return self._pair.slim_program(batch.images).value(residual.shortcut, batch.slim)

    def _draw(self, batch: Batch, call: int) -> torch.Generator:
        """The source of sampled positions of one batch at one call, the same on every run."""
        return seeded_generator(self._settings.seed, batch.number, self._layer.sites[call].operation)
