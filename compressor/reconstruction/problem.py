"""One layer: its samples measured at every call, then solved and written back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from compressor.core import NMPattern
from compressor.reconstruction.layers import Layer
from compressor.reconstruction.lockstep import Batch, Lockstep
from compressor.reconstruction.masked import masked_solver, search_mask
from compressor.reconstruction.moments import Moments, Statistics
from compressor.reconstruction.pair import ModelPair
from compressor.reconstruction.rectified import Samples, fit_rectified
from compressor.reconstruction.regression import aim_through, as_regression, dense_rows, kept_entries, rows_of
from compressor.reconstruction.solve import (
    NEGLIGIBLE,
    RIDGES,
    Fit,
    SolverFor,
    cholesky_solver,
    fit,
    intercept,
    match_variance,
)

DAMPING = 1e-2
"""Added to the diagonal in searches for masks, relative to its mean."""


@dataclass(frozen=True, slots=True)
class ReconstructionSettings:
    """How layers are solved."""

    mode: Literal["sequential", "parallel"] = "sequential"
    ridges: Sequence[float] = RIDGES
    holdout: float = 0.2  # share of the images that only judge
    positions: int = 64  # sampled for each image
    batch_size: int = 32
    variance: float = 0.0  # power of the variance correction, see match_variance
    rectify: bool = True  # layers in front of a ReLU are fitted to what it lets through, see rectified.py
    residual: bool = True  # the last layer of a branch aims at what the shortcut lacks
    mask_searches: Sequence[Literal["sparsegpt", "obc"]] = ()  # beside the given masks, see masked.py
    pattern: NMPattern | None = None  # of the masks; None for unstructured ones
    most_features: int = 6144  # a layer with more unknowns for each output is left: its moments take 8 n^2 bytes
    memory: int = 3 * 2**30  # bytes that activations may take
    seed: int = 0


@dataclass(frozen=True, slots=True)
class LayerResult:
    """What became of one layer. Errors are held-out squared errors relative to the variance of the target."""

    name: str
    samples: int = 0
    features: int = 0  # unknowns of each output
    ridge: float = math.inf  # infinite where the weight is as it was and means alone are compensated
    error_before: float = math.nan  # with the mean compensated
    error_after: float = math.nan
    accepted: bool = False
    reason: str = ""  # why the weight is as it was


class LayerProblem:
    """A layer of the slim model that is to be solved."""

    def __init__(
        self,
        layer: Layer,
        dense: Layer | None,
        pair: ModelPair,
        settings: ReconstructionSettings,
        mask: Tensor | None = None,
    ) -> None:
        """Nothing is measured yet.

        Args:
            layer: the layer as the slim model calls it.
            dense: the same layer as the dense model calls it; None where it does not.
            pair: both models.
            settings: how layers are solved.
            mask: where its weight may be other than zero; None for everywhere. A search may replace it.
        """
        self.mask = mask
        self.layer, self._pair, self._settings = layer, pair, settings
        self._dense = dense or layer
        self._regression = as_regression(layer, pair.slim, pair.kept)
        self.obstacle = _obstacle(layer, dense, self._regression.weight.shape[-1], settings)
        site = layer.sites[0]
        sequential = settings.mode == "sequential"
        self._residual = (
            settings.residual and sequential and site.aim is not None and self._dense.sites[0].residual is not None
        )
        self._aim = aim_through(site.affines, self._regression.channels, pair.slim)
        self._rectify = settings.rectify and self._is_rectified()
        self._samples: dict[bool, list[tuple[Tensor, Tensor, Tensor]]] = {False: [], True: []}  # by whether held out
        self._bytes = 0
        self._train, self._holdout = Moments(), Moments()

    def measure(self, lockstep: Lockstep, call: int) -> None:
        """Add the samples of one of the layer's calls.

        Args:
            lockstep: the batches, which stand before this call or earlier.
            call: which of the calls.
        """
        site, dense_site = self.layer.sites[call], self._dense.sites[call]
        if self._settings.mode == "parallel":
            for batch in lockstep.advance(dense_site.operation, 0):
                self._add(batch, *self._of_dense_inputs(batch, call))
            return
        last = dense_site.operation
        if self._residual:
            assert dense_site.residual is not None
            last = dense_site.residual.operation
        for batch in lockstep.advance(last + 1, site.operation):
            self._add(batch, *self._of_slim_inputs(batch, call))

    def _add(self, batch: Batch, columns: Tensor, rows: Tensor, offset: Tensor) -> None:
        """Add samples: columns (R, G, n), targets (R, C), and what the ReLU sees beside the scaled output, (R, C)."""
        (self._holdout if batch.holdout else self._train).add(columns, self._regression.grouped(rows))
        if self._rectify:
            self._keep((columns[:, 0], rows, offset), batch.holdout)

    def _of_slim_inputs(self, batch: Batch, call: int) -> tuple[Tensor, Tensor, Tensor]:
        """Samples of what the slim model feeds the layer, and of what the dense one gives."""
        regression = self._regression
        values = self._pair.slim_program(batch.images).value(self.layer.sites[call].input, batch.slim)
        target = self._target(batch, call)
        positions = regression.positions(target, self._settings.positions, batch.images, self._draw(batch, call))
        rows = regression.targets(target, positions)
        offset = self._aim.shift.to(rows).expand_as(rows)
        if self._residual:
            rows = self._aim.before(rows)
            offset = offset + regression.targets(self._shortcut(batch, call), positions)
        return regression.columns(values, target, positions), rows, offset

    def _of_dense_inputs(self, batch: Batch, call: int) -> tuple[Tensor, Tensor, Tensor]:
        """Samples of what the dense model feeds the layer: y = W x + b, of which the slim layer sees some columns."""
        program, site = self._pair.dense_program(batch.images), self._dense.sites[call]
        full = as_regression(self._dense, self._pair.dense, {})
        output = torch.empty(program.shapes[site.output], device="meta")
        positions = full.positions(output, self._settings.positions, batch.images, self._draw(batch, call))
        columns = full.columns(program.value(site.input, batch.dense), output, positions)
        kept_rows, kept_columns = kept_entries(self._dense, self._pair.kept, full.weight)
        rows = columns[:, 0] @ full.weight[0, kept_rows].to(columns).T
        if self._dense.bias is not None:
            rows = rows + self._pair.dense.get_parameter(self._dense.bias).detach()[kept_rows]
        return columns[..., kept_columns], rows, self._aim.shift.to(rows).expand_as(rows)

    def _keep(self, samples: tuple[Tensor, Tensor, Tensor], holdout: bool) -> None:
        """Keep samples for the ReLU, unless they take more than a quarter of the memory."""
        self._bytes += sum(part.nbytes for part in samples)
        if self._bytes <= self._settings.memory // 4:
            self._samples[holdout].append(samples)
        else:
            self._rectify, self._samples = False, {False: [], True: []}

    def solve(self) -> LayerResult:
        """Fit the layer and write it into the slim model, unless it has no error or the fit is no better."""
        if self.obstacle is not None:
            return LayerResult(self.layer.name, reason=self.obstacle)
        train = self._train.statistics()
        holdout = self._holdout.statistics() if self._holdout.count else None
        regression = self._regression
        fitted = self._fit(train, holdout)
        self._samples = {False: [], True: []}
        accepted = not math.isinf(fitted.ridge)
        if fitted.error_before >= NEGLIGIBLE:
            fitted = match_variance(fitted, train, self._settings.variance)
            regression.store(fitted, self._pair.slim, self._aim.reachable if self._residual else None)
        return LayerResult(
            self.layer.name,
            train.count,
            regression.weight.shape[-1],
            fitted.ridge,
            fitted.error_before,
            fitted.error_after,
            accepted,
            "" if accepted else _reason(fitted, holdout is not None),
        )

    def _fit(self, train: Statistics, holdout: Statistics | None) -> Fit:
        """Choose mask and ridge by the held-out samples, then fit to all of them."""
        fitted, weight, solver = self._least_squares(train, holdout)
        if math.isinf(fitted.ridge) or holdout is None:
            return fitted
        every = train.merged(holdout)
        if not self._regression.has_intercept:
            return replace(fitted, weight=solver(every.uncentred(), weight)(fitted.ridge))
        solved = solver(every, weight)(fitted.ridge)
        bias = intercept(every, solved)
        samples = self._all_samples()
        if samples is None or fitted.bias is None:
            return replace(fitted, weight=solved, bias=bias)
        first, last = samples[: train.count], samples[train.count :]
        turned = fit_rectified(first, train, (fitted.weight, fitted.bias), weight, ridge=fitted.ridge, solver=solver)
        if last.loss(turned[0][0], turned[1][0]) < last.loss(fitted.weight[0], fitted.bias[0]):
            solved, bias = fit_rectified(samples, every, (solved, bias), weight, ridge=fitted.ridge, solver=solver)
        return replace(fitted, weight=solved, bias=bias)

    def _least_squares(self, train: Statistics, holdout: Statistics | None) -> tuple[Fit, Tensor, SolverFor]:
        """The best fit over ridges, and over masks where the weight is masked, with its W0 and its solver."""
        regression, settings = self._regression, self._settings
        solve = partial(fit, train, holdout, has_intercept=regression.has_intercept, ridges=settings.ridges)
        if self.mask is None or regression.taps is not None:
            return solve(regression.weight), regression.weight, cholesky_solver
        support = rows_of(self.mask, self.layer) > 0
        solver = masked_solver(support)
        best = solve(regression.weight, solver=solver), regression.weight, solver
        dense = dense_rows(self.layer, self._pair.dense, self._pair.kept)
        if dense is None or dense.shape != regression.weight.shape or holdout is None:
            return best
        for search in settings.mask_searches:
            other = self._searched(search, dense, train, support)
            if other is not None:
                solver = masked_solver(other)
                fitted = solve(dense * other, solver=solver)
                if fitted.error_after < best[0].error_after:
                    best = replace(fitted, error_before=best[0].error_before), dense * other, solver
                    self.mask = regression.as_mask(other)
        return best

    def _is_rectified(self) -> bool:
        """Whether a ReLU follows the layer, with nothing but a BatchNorm and the addition that it aims at before it."""
        (site, *others), regression = self.layer.sites, self._regression
        plain = len(regression.weight) == 1 and regression.taps is None and regression.has_intercept and not others
        return plain and site.rectified and (site.residual is None or self._residual)

    def _all_samples(self) -> Samples | None:
        """The samples that fits are made from, then those that judge; None where there is no ReLU behind the layer."""
        if not self._samples[True]:
            return None
        parts = zip(*self._samples[False], *self._samples[True], strict=True)
        x, rows, offset = (torch.cat(part) for part in parts)
        scale = torch.where(self._aim.reachable, self._aim.scale, 1.0).to(x)
        return Samples(x, rows * scale + offset, offset, scale)

    def _searched(
        self, search: Literal["sparsegpt", "obc"], dense: Tensor, train: Statistics, support: Tensor
    ) -> Tensor | None:
        """The mask (G, o, n) that a search gives, with as many weights as the given one."""
        matrices = train.uncentred().with_ridge(DAMPING).xx
        taps = math.prod(self.layer.window.kernel) if self.layer.window is not None else 1
        masks = []
        for weight, matrix, allowed in zip(dense, matrices, support, strict=True):
            budget = self._settings.pattern or float(allowed.double().mean())
            masks.append(search_mask(search, weight, matrix, budget, taps))
        present = [mask for mask in masks if mask is not None]
        return torch.stack(present) if len(present) == len(masks) else None

    def _target(self, batch: Batch, call: int) -> Tensor:
        """What the layer's output, or with a residual target the branch's, should be on one batch."""
        dense_site = self._dense.sites[call]
        dense = self._pair.dense_program(batch.images)
        if not self._residual:
            return self._regression.of_kept(dense.value(dense_site.output, batch.dense))
        assert dense_site.residual is not None
        total = self._regression.of_kept(dense.value(dense_site.residual.total, batch.dense))
        return total - self._shortcut(batch, call)

    def _shortcut(self, batch: Batch, call: int) -> Tensor:
        """The slim shortcut that the branch is added to."""
        residual = self.layer.sites[call].residual
        assert residual is not None
        return self._pair.slim_program(batch.images).value(residual.shortcut, batch.slim)

    def _draw(self, batch: Batch, call: int) -> torch.Generator:
        """The source of sampled positions of one batch at one call, the same on every run."""
        place = (self._settings.seed * 1_000_003 + batch.number) * 1_000_003 + self.layer.sites[call].operation
        return torch.Generator().manual_seed(place % 2**63)


def _obstacle(layer: Layer, dense: Layer | None, features: int, settings: ReconstructionSettings) -> str | None:
    """Why a layer cannot be solved; None if it can."""
    if dense is None or len(dense.sites) != len(layer.sites):
        return "the dense model does not call it in the same way"
    if features > settings.most_features:
        return f"it has {features} unknowns for each output, more than {settings.most_features}"
    if settings.mode == "parallel" and layer.groups > 1:
        return "grouped layers are solved in sequential mode only"
    return None


def _reason(fitted: Fit, judged: bool) -> str:
    if not judged:
        return "there are too few images to hold any out"
    if fitted.error_before < NEGLIGIBLE:
        return "its output is that of the dense model already"
    return "no fit is better on held-out images"
