"""The query projections of attentions whose queries and keys lost dimensions: the map of `ScoreMoments`, folded in.

Keys are sliced. Values and the output projection are a linear layer and its reader. The map has no intercept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from compressor.reconstruction.attention_calls import (
    AttentionCall,
    QueryProjection,
    find_attention_calls,
    find_query_projection,
)
from compressor.reconstruction.lockstep import Batch, Lockstep
from compressor.reconstruction.pair import ModelPair
from compressor.reconstruction.problem import LayerResult
from compressor.reconstruction.score_moments import ScoreMoments
from compressor.reconstruction.solve import NEGLIGIBLE

MAX_IMAGES = 64  # of a head that the map is fitted to, and as many that judge


def fold_into_query(weight: Tensor, bias: Tensor | None, score_map: Tensor) -> tuple[Tensor, Tensor | None]:
    """Fold M into the query projection.

    Args:
        weight: Kept rows of one head, (s, inputs).
        bias: (s,), or None.
        score_map: M (s, s).

    Returns:
        M^T W and M^T b.
    """
    turned = score_map.T.to(weight)
    return turned @ weight, None if bias is None else turned @ bias


@dataclass(frozen=True, slots=True)
class Head:
    """One head: the rows of the query projection that it has left, and its places among the N of (N, T, s)."""

    rows: Tensor  # (s,)
    slim: tuple[int, ...]
    dense: tuple[int, ...]


class AttentionProblem:
    """An attention of the slim model whose queries and keys lost dimensions."""

    def __init__(self, slim: AttentionCall, dense: AttentionCall, pair: ModelPair, ridges: Sequence[float]) -> None:
        """Nothing is measured yet.

        Args:
            slim: The call of the slim model.
            dense: The same call of the dense model.
            pair: Both models.
            ridges: Of which the one with the smallest held-out error is taken.
        """
        self.slim, self._dense, self._pair, self._ridges = slim, dense, pair, ridges
        self._heads = cache(self._find_heads)
        self.projection = find_query_projection(pair.slim_program(pair.images), slim)
        heads = self._heads(pair.images)
        self._train, self._holdout = ([ScoreMoments() for _ in heads] for _ in range(2))

    @property
    def is_solvable(self) -> bool:
        """Whether the queries come from a linear layer, and the heads of both models can be paired."""
        program = self._pair.slim_program(self._pair.images)
        return bool(self._train) and len(program.readers.get(self.slim.query, ())) == 1

    def _find_heads(self, images: int) -> list[Head]:
        """The heads in a batch of a size; none where they cannot be paired."""
        slim_program, dense_program = self._pair.slim_program(images), self._pair.dense_program(images)
        slim = find_query_projection(slim_program, self.slim)
        dense = find_query_projection(dense_program, self._dense)
        if slim is None or dense is None or slim.weight != dense.weight:
            return []
        for program, call, projection in ((slim_program, self.slim, slim), (dense_program, self._dense, dense)):
            if math.prod(program.shapes[call.key][:-2]) != len(projection.rows):  # keys that several heads share
                return []
        return _paired(slim, dense, self._pair.kept.get(slim.weight, {}).get(0))

    def solve(self, lockstep: Lockstep) -> LayerResult:
        """Fit M of every head, fold it into the weight and into the queries that the batches have already.

        Args:
            lockstep: The batches, which stand before the call or earlier.

        Returns:
            The result of the projection. Errors are those of the scores, relative to their sum of squares.
        """
        batches = list(lockstep.advance(self._dense.operation, self.slim.operation))
        for batch in batches:
            self._measure(batch)
        judges = self._holdout if self._holdout[0].images else self._train
        assert self.projection is not None, "only solvable problems are solved"
        identity = torch.eye(len(self._heads(self._pair.images)[0].rows), dtype=torch.float64)
        before = _mean(judge.error(identity) for judge in judges)
        fits = [(ridge, [moments.solve(ridge) for moments in self._train]) for ridge in self._ridges]
        errors = [_mean(judge.error(one) for judge, one in zip(judges, maps, strict=True)) for _, maps in fits]
        best = min(range(len(fits)), key=errors.__getitem__)
        (ridge, maps), after = fits[best], errors[best]
        result = LayerResult(
            f"{self.projection.weight.removesuffix('.weight')}, scores",
            samples=sum(moments.images for moments in self._train),
            features=len(identity) ** 2,
            error_before=before,
            error_after=before,
        )
        if before < NEGLIGIBLE or after >= before or judges is self._train:
            reason = "no fit is better on held-out images" if before >= NEGLIGIBLE else "its scores are the dense ones"
            return replace(result, reason=reason)
        self._store(self.projection, maps)
        for batch in batches:
            self._turn(batch, maps)
        return replace(result, ridge=ridge, error_after=after, accepted=True)

    def _measure(self, batch: Batch) -> None:
        slim, dense = (
            _scaled(program.value(call.query, values), program.value(call.key, values), call)
            for program, values, call in (
                (self._pair.slim_program(batch.images), batch.slim, self.slim),
                (self._pair.dense_program(batch.images), batch.dense, self._dense),
            )
        )
        parts = self._holdout if batch.holdout else self._train
        for head, moments in zip(self._heads(batch.images), parts, strict=True):
            for at, dense_at in zip(head.slim, head.dense, strict=True):
                if moments.images < MAX_IMAGES:
                    moments.add(slim[0][at], slim[1][at], dense[0][dense_at], dense[1][dense_at])

    def _store(self, projection: QueryProjection, maps: Sequence[Tensor]) -> None:
        weight = self._pair.slim.get_parameter(projection.weight).data
        bias = None if projection.bias is None else self._pair.slim.get_parameter(projection.bias).data
        for head, score_map in zip(self._heads(self._pair.images), maps, strict=True):
            rows, shift = fold_into_query(
                weight[head.rows].double(), None if bias is None else bias[head.rows].double(), score_map
            )
            weight[head.rows] = rows.to(weight)
            if bias is not None and shift is not None:
                bias[head.rows] = shift.to(bias)

    def _turn(self, batch: Batch, maps: Sequence[Tensor]) -> None:
        """Multiply the queries that a batch has by the maps."""
        query = self._pair.slim_program(batch.images).value(self.slim.query, batch.slim)
        flat = query.flatten(0, -3).clone()
        for head, score_map in zip(self._heads(batch.images), maps, strict=True):
            at = list(head.slim)
            flat[at] = flat[at] @ score_map.to(flat)
        batch.slim[self.slim.query] = flat.reshape(query.shape)


def find_attention_problems(
    pair: ModelPair, masks: Mapping[str, Tensor], ridges: Sequence[float]
) -> list[AttentionProblem]:
    """Find the attentions whose queries and keys lost dimensions.

    Args:
        pair: Both models.
        masks: Masked weights, which are left as they are.
        ridges: Candidates for the ridge.

    Returns:
        The problems in the order of the slim model's calls; none where both models call attentions differently.
    """
    slim_program, dense_program = pair.slim_program(pair.images), pair.dense_program(pair.images)
    calls, dense_calls = find_attention_calls(slim_program), find_attention_calls(dense_program)
    if len(calls) != len(dense_calls):
        return []
    smaller = [
        AttentionProblem(slim, dense, pair, ridges)
        for slim, dense in zip(calls, dense_calls, strict=True)
        if slim_program.shapes[slim.query][-1] != dense_program.shapes[dense.query][-1]
    ]
    return [
        problem
        for problem in smaller
        if problem.is_solvable and problem.projection is not None and problem.projection.weight not in masks
    ]


def _paired(slim: QueryProjection, dense: QueryProjection, kept: tuple[int, ...] | None) -> list[Head]:
    """Pair the heads of both models; none where they cannot be paired."""
    places: dict[tuple[int, ...], list[int]] = {}
    for at, rows in enumerate(slim.rows.tolist()):
        places.setdefault(tuple(rows), []).append(at)
    dense_places: dict[frozenset[int], list[int]] = {}
    for at, rows in enumerate(dense.rows.tolist()):
        dense_places.setdefault(frozenset(rows), []).append(at)
    heads = []
    for rows, own in places.items():
        original = {row if kept is None else kept[row] for row in rows}
        matching = [at for rows_of_head, at in dense_places.items() if original <= rows_of_head]
        if len(matching) != 1 or len(matching[0]) != len(own):
            return []
        heads.append(Head(torch.tensor(rows), tuple(own), tuple(matching[0])))
    return heads


def _scaled(query: Tensor, key: Tensor, call: AttentionCall) -> tuple[Tensor, Tensor]:
    """Queries times the scale, and keys, both (N, T, s)."""
    key = key.mT if call.key_is_transposed else key
    return call.scale * query.flatten(0, -3), key.flatten(0, -3)


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
