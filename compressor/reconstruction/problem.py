"""One layer: measured at every call, then solved and written back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from compressor.core import MaskSearch
from compressor.reconstruction.layer_samples import LayerSampler
from compressor.reconstruction.lockstep import Lockstep
from compressor.reconstruction.masked import masked_solver, search_mask
from compressor.reconstruction.moments import Moments, Statistics
from compressor.reconstruction.pair import ModelPair
from compressor.reconstruction.rectified import RectifiedSamples, fit_rectified
from compressor.reconstruction.regression import dense_rows, weight_rows
from compressor.reconstruction.solvable_layers import SolvableLayer
from compressor.reconstruction.solve import (
    NEGLIGIBLE,
    Fit,
    SolverFor,
    cholesky_solver,
    fit,
    intercept,
)
from compressor.reconstruction.solver_options import ReconstructionSettings

DAMPING = 1e-2
"""Added to the diagonal in searches for masks, relative to its mean."""


@dataclass(frozen=True, slots=True)
class LayerResult:
    """The result of one layer. Errors are held-out squared errors relative to the variance of the target."""

    name: str
    samples: int = 0
    features: int = 0  # unknowns of each output
    ridge: float = math.inf  # infinite where the weight is as it was and means alone are compensated
    error_before: float = math.nan  # with the mean compensated
    error_after: float = math.nan
    accepted: bool = False
    reason: str = ""  # why the weight is as it was
    mask_search: MaskSearch | None = None  # that chose the mask; None = it is the given one, or there is none


class LayerProblem:
    """A layer of the slim model that is to be solved."""

    def __init__(
        self,
        layer: SolvableLayer,
        dense: SolvableLayer | None,
        pair: ModelPair,
        settings: ReconstructionSettings,
        mask: Tensor | None = None,
    ) -> None:
        """Nothing is measured yet.

        Args:
            layer: The layer as the slim model calls it.
            dense: The same layer as the dense model calls it; None where it does not.
            pair: Both models.
            settings: How layers are solved.
            mask: Where its weight may be other than zero; None for everywhere. A search may replace it.
        """
        self.mask = mask
        self._mask_search: MaskSearch | None = None
        self.layer, self._pair, self._settings = layer, pair, settings
        self._sampler = LayerSampler(layer, dense or layer, pair, settings)
        self._regression, self._aim = self._sampler.regression, self._sampler.aim
        self.obstacle = _obstacle(layer, dense, self._regression.weight.shape[-1], settings)
        self._rectify = settings.rectify and self._is_rectified()
        self._samples: dict[bool, list[tuple[Tensor, Tensor, Tensor]]] = {False: [], True: []}  # by whether held out
        self._bytes = 0
        self._train, self._holdout = Moments(), Moments()

    def measure(self, lockstep: Lockstep, call: int) -> None:
        """Add the samples of one of the layer's calls.

        Args:
            lockstep: The batches, which stand before this call or earlier.
            call: Index of the call.
        """
        for batch, samples in self._sampler.sample(lockstep, call):
            moments = self._holdout if batch.holdout else self._train
            moments.add(samples.columns, self._regression.grouped(samples.rows))
            if self._rectify:
                self._keep((samples.columns[:, 0], samples.rows, samples.offset), batch.holdout)

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
            regression.store(fitted, self._pair.slim, self._aim.reachable if self._sampler.residual else None)
        return LayerResult(
            self.layer.name,
            samples=train.count,
            features=regression.weight.shape[-1],
            ridge=fitted.ridge,
            error_before=fitted.error_before,
            error_after=fitted.error_after,
            accepted=accepted,
            reason="" if accepted else _reason(fitted, holdout is not None),
            mask_search=self._mask_search,
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
            start = turned[0], intercept(every, turned[0])
            solved, bias = fit_rectified(samples, every, start, weight, ridge=fitted.ridge, solver=solver, turns=2)
        return replace(fitted, weight=solved, bias=bias)

    def _least_squares(self, train: Statistics, holdout: Statistics | None) -> tuple[Fit, Tensor, SolverFor]:
        """The best fit over ridges, and over masks where the weight is masked, with its W0 and its solver."""
        regression, settings = self._regression, self._settings
        solve = partial(fit, train, holdout, has_intercept=regression.has_intercept, ridges=settings.ridges)
        if self.mask is None or regression.scaled is not None:
            return solve(regression.weight), regression.weight, cholesky_solver
        support = weight_rows(self.mask, self.layer) > 0
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
                    self.mask, self._mask_search = regression.as_mask(other), search
        return best

    def _is_rectified(self) -> bool:
        """Whether a ReLU follows the layer, with nothing but a BatchNorm and the addition that it aims at before it."""
        (site, *others), regression = self.layer.sites, self._regression
        plain = len(regression.weight) == 1 and regression.scaled is None and regression.has_intercept and not others
        return plain and site.rectified and (site.residual is None or self._sampler.residual)

    def _all_samples(self) -> RectifiedSamples | None:
        """The samples that fits are made from, then those that judge; None where there is no ReLU behind the layer."""
        if not self._samples[True]:
            return None
        parts = zip(*self._samples[False], *self._samples[True], strict=True)
        x, rows, offset = (torch.cat(part) for part in parts)
        scale = torch.where(self._aim.reachable, self._aim.scale, 1.0).to(x)
        return RectifiedSamples(x, rows * scale + offset, offset, scale)

    def _searched(self, search: MaskSearch, dense: Tensor, train: Statistics, support: Tensor) -> Tensor | None:
        """The mask (G, o, n) that a search gives, with as many weights as the given one."""
        matrices = train.uncentred().with_ridge(DAMPING).xx
        taps = math.prod(self.layer.window.kernel) if self.layer.window is not None else 1
        masks = []
        for weight, matrix, allowed in zip(dense, matrices, support, strict=True):
            budget = self._settings.pattern or float(allowed.double().mean())
            masks.append(search_mask(search, weight, matrix, budget, taps))
        present = [mask for mask in masks if mask is not None]
        return torch.stack(present) if len(present) == len(masks) else None


def _obstacle(
    layer: SolvableLayer, dense: SolvableLayer | None, features: int, settings: ReconstructionSettings
) -> str | None:
    """The reason why a layer cannot be solved; None if it can."""
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
