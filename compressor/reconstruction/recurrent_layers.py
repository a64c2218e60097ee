"""The weights of LSTM, GRU and RNN layers that lost hidden units or inputs.

Every layer and direction reads its input x_t and its own last state h_(t-1) by two linear maps. Each is fitted alone,
so that the gates are those of the dense model:

    W_ih' x'_t      ~  W_ih x_t          x' = what the slim layers below give
    W_hh' h'_(t-1)  ~  W_hh h_(t-1)      h' = the kept states of the dense layer, then those of the slim one

with the rows of the kept units. A fit is accepted where the states of the slim layer, run on held-out samples, come
closer to those of the dense layer.

Shapes: B samples, T steps, I inputs, H hidden units, D directions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from compressor.reconstruction.lockstep import Batch, Lockstep
from compressor.reconstruction.moments import Moments
from compressor.reconstruction.pair import ModelPair
from compressor.reconstruction.problem import LayerResult
from compressor.reconstruction.recurrent_calls import (
    RecurrentCall,
    find_recurrent_calls,
    run_layer,
    states_before,
)
from compressor.reconstruction.solve import fit

MAX_ROWS = 2**16  # steps of all samples that layers are fitted to and judged by
LEAST_BATCHES = 5  # one of which judges
PASSES = 2  # the first over states of the dense layer, the second over those of the slim layer after the first


@dataclass(frozen=True, slots=True)
class Sequences:
    """One batch at one layer: what the layer takes in both models, and its first states."""

    holdout: bool
    dense_input: Tensor  # (B, T, I) or (T, B, I)
    slim_input: Tensor
    dense_start: tuple[Tensor, ...]  # h, and for an LSTM c, of all layers and directions, (layers D, B, H)
    slim_start: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class LayerSequences:
    """One batch at one layer in one direction, time in the order in which it runs."""

    holdout: bool
    inputs: Tensor  # of the dense layer
    before: Tensor  # its states before every step
    after: Tensor  # its states after every step
    slim_inputs: Tensor
    slim_start: tuple[Tensor, ...]


class RecurrentProblem:
    """A recurrent network of the slim model that lost hidden units or inputs."""

    def __init__(self, slim: RecurrentCall, dense: RecurrentCall, pair: ModelPair, ridges: Sequence[float]) -> None:
        """Nothing is measured yet.

        Args:
            slim: The call of the slim model.
            dense: The same call of the dense model.
            pair: Both models.
            ridges: Of which the one with the smallest held-out error is taken.
        """
        self.slim, self._dense, self._pair, self._ridges = slim, dense, pair, ridges

    def solve(self, lockstep: Lockstep) -> LayerResult:
        """Fit layer after layer, each for the inputs that the solved ones below it give.

        Args:
            lockstep: The batches, which stand before the call or earlier.

        Returns:
            The result of the whole network. Errors are those of the states, relative to their variance, averaged over
            layers and directions.
        """
        batches = [self._sequences(batch) for batch in lockstep.advance(self._dense.operation, self.slim.operation)]
        rows = batches[0].dense_input.shape[:2].numel()
        batches = batches[: max(LEAST_BATCHES, MAX_ROWS // rows)]
        errors: list[list[float]] = []
        for first in range(0, len(self.slim.names), self.slim.directions):
            numbers = range(first, first + self.slim.directions)
            layers = [[self._layer(number, batch) for number in numbers] for batch in batches]
            errors += [
                self._solve(number, directions)
                for number, directions in zip(numbers, zip(*layers, strict=True), strict=True)
            ]
            if numbers.stop < len(self.slim.names):
                pairs = zip(batches, layers, strict=True)
                batches = [self._above(batch, numbers, directions) for batch, directions in pairs]
        samples = rows * sum(not batch.holdout for batch in batches)
        features = sum(weight.shape[1] for weight in self._weights(self.slim, 0)[:2])
        before, after = mean(passes[0] for passes in errors), mean(min(passes) for passes in errors)
        accepted = after < before
        return LayerResult(
            self.slim.module,
            samples=samples,
            features=features,
            ridge=math.nan,
            error_before=before,
            error_after=after,
            accepted=accepted,
            reason="" if accepted else "no fit is better on held-out samples",
        )

    def _solve(self, number: int, samples: Sequence[LayerSequences]) -> list[float]:
        """Fit one layer in one direction; return the held-out errors of the sliced weights and after each pass."""
        judged = [sample for sample in samples if sample.holdout]
        if not judged:
            return [0.0]
        best = weights = [weight.clone() for weight in self._weights(self.slim, number)]
        errors = [self._error(number, judged, weights)]
        for with_own_states in range(PASSES):
            weights = self._fitted(number, samples, weights if with_own_states else None)
            errors.append(self._error(number, judged, weights))
            if errors[-1] < min(errors[:-1]):
                best = weights
        for parameter, weight in zip(self._weights(self.slim, number), best, strict=True):
            parameter.copy_(weight)
        return errors

    def _fitted(self, number: int, samples: Sequence[LayerSequences], weights: Sequence[Tensor] | None) -> list[Tensor]:
        """Fit both maps. `weights`: those whose states the slim layer is fitted on; None = the dense layer's states."""
        rows, units = (self._kept(number, dim) for dim in (0, 1))
        dense_maps, sliced = self._weights(self._dense, number)[:2], self._weights(self.slim, number)
        moments = [(Moments(), Moments()) for _ in dense_maps]  # of inputs and of states: fitted, held out
        for sample in samples:
            if weights is None:
                states = sample.before[..., units]
            else:
                after = run_layer(self.slim, sample.slim_inputs, sample.slim_start, weights)
                states = states_before(after, sample.slim_start[0], self.slim.time_dim)
            for part, x, slim_x, weight in zip(
                moments, (sample.inputs, sample.before), (sample.slim_inputs, states), dense_maps, strict=True
            ):
                aim = x.flatten(0, 1) @ weight[rows].T
                part[sample.holdout].add(slim_x.flatten(0, 1)[:, None], aim[:, None])
        fits = [
            fit(
                fitted.statistics(), judged.statistics(), weight.double()[None],
                has_intercept=self.slim.has_biases, ridges=self._ridges,
            )
            for (fitted, judged), weight in zip(moments, sliced[:2], strict=True)
        ]  # fmt: skip
        maps = [one.weight[0].to(weight) for one, weight in zip(fits, sliced[:2], strict=True)]
        shifts = [one.bias[0] for one in fits if one.bias is not None]
        return [*maps, *(bias + shift.to(bias) for bias, shift in zip(sliced[2:], shifts, strict=True))]

    def _error(self, number: int, samples: Sequence[LayerSequences], weights: Sequence[Tensor]) -> float:
        """Squared error of the slim layer's states, relative to the variance of the dense layer's."""
        units = self._kept(number, 1)
        error = total = 0.0
        for sample in samples:
            aim = sample.after[..., units]
            states = run_layer(self.slim, sample.slim_inputs, sample.slim_start, weights)
            error += float((states - aim).double().square().sum())
            total += float((aim - aim.mean((0, 1))).double().square().sum())
        return error / total if total else 0.0

    def _layer(self, number: int, batch: Sequences) -> LayerSequences:
        inputs, slim_inputs = (self._in_order(number, x) for x in (batch.dense_input, batch.slim_input))
        start, slim_start = (
            tuple(state[number : number + 1] for state in states) for states in (batch.dense_start, batch.slim_start)
        )
        after = run_layer(self._dense, inputs, start, self._weights(self._dense, number))
        before = states_before(after, start[0], self.slim.time_dim)
        return LayerSequences(batch.holdout, inputs, before, after, slim_inputs, slim_start)

    def _above(self, batch: Sequences, numbers: range, directions: Sequence[LayerSequences]) -> Sequences:
        """The batch at the next layer, which takes the states of all directions side by side."""
        dense, slim = [], []
        for number, layer in zip(numbers, directions, strict=True):
            own = run_layer(self.slim, layer.slim_inputs, layer.slim_start, self._weights(self.slim, number))
            dense.append(self._in_order(number, layer.after))
            slim.append(self._in_order(number, own))
        return replace(batch, dense_input=torch.cat(dense, -1), slim_input=torch.cat(slim, -1))

    def _in_order(self, number: int, sequence: Tensor) -> Tensor:
        """Every second direction runs from the last step to the first."""
        return sequence.flip(self.slim.time_dim) if number % self.slim.directions else sequence

    def _weights(self, call: RecurrentCall, number: int) -> list[Tensor]:
        module = self._pair.slim if call is self.slim else self._pair.dense
        return [module.get_parameter(name).data for name in call.names[number]]

    def _kept(self, number: int, dim: int) -> list[int]:
        """The rows or columns of the dense layer's W_hh that the slim one has."""
        name = self._dense.names[number][1]
        return list(self._pair.kept.get(name, {}).get(dim, range(self._pair.dense.get_parameter(name).shape[dim])))

    def _sequences(self, batch: Batch) -> Sequences:
        dense, slim = (
            program.arguments(program.operations[call.operation], values)[0]
            for program, call, values in (
                (self._pair.dense_program(batch.images), self._dense, batch.dense),
                (self._pair.slim_program(batch.images), self.slim, batch.slim),
            )
        )
        return Sequences(batch.holdout, dense[0], slim[0], _as_tuple(dense[1]), _as_tuple(slim[1]))


def find_recurrent_problems(
    pair: ModelPair, masks: Mapping[str, Tensor], ridges: Sequence[float]
) -> list[RecurrentProblem]:
    """Find the recurrent networks that lost hidden units or inputs.

    Args:
        pair: Both models.
        masks: Masked weights, which are left as they are.
        ridges: Candidates for the ridge.

    Returns:
        The problems in the order of the slim model's calls.
    """
    slim, dense = (
        {call.names: call for call in find_recurrent_calls(program)}
        for program in (pair.slim_program(pair.images), pair.dense_program(pair.images))
    )
    problems = []
    for names, call in slim.items():
        weights = {name for of_direction in names for name in of_direction}
        if names in dense and weights & pair.kept.keys() and not weights & masks.keys():
            problems.append(RecurrentProblem(call, dense[names], pair, ridges))
    return problems


def _as_tuple(states: Any) -> tuple[Tensor, ...]:
    return (states,) if isinstance(states, Tensor) else tuple(states)
