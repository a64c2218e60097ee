"""Queries and keys that lost dimensions: the map between the kept ones, and where it goes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from compressor.reconstruction.attention import fold_into_query
from compressor.reconstruction.attention_calls import find_attention_calls, find_query_projection
from compressor.reconstruction.program import record
from compressor.reconstruction.score_moments import ScoreMoments
from compressor.reconstruction.sequential import reconstruct
from compressor.reconstruction.solver_options import ReconstructionSettings


def test_check_11_a_map_between_kept_dimensions() -> None:
    query = torch.tensor([[1.0, 2], [2, 4], [3, 6]])
    key = torch.tensor([[1.0, 1], [0, 2], [2, 0]])
    moments = ScoreMoments()
    moments.add(query[:, :1], key[:, :1], query, key, centre=False)
    score_map = moments.solve()
    assert score_map.item() == pytest.approx(1.4)
    total = float((query @ key.T).square().sum())
    assert moments.error(score_map) * total == pytest.approx(268.8)
    assert moments.error(torch.eye(1, dtype=torch.float64)) * total == pytest.approx(280)
    assert moments.solve(ridge=1e9).item() == pytest.approx(1)


def test_the_map_is_optimal_over_images_and_folds_into_the_query() -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 6, generator=random, dtype=torch.float64)
    bias = torch.randn(4, generator=random, dtype=torch.float64)
    moments, images, kept = ScoreMoments(), [], [0, 2]
    for _ in range(3):
        x = torch.randn(5, 6, generator=random, dtype=torch.float64)
        query, key = x @ weight.T + bias, torch.randn(5, 4, generator=random, dtype=torch.float64)
        moments.add(query[:, kept], key[:, kept], query, key)
        images.append((x, query, key - key.mean(0)))
    score_map = moments.solve()
    residual = sum(
        query[:, kept].T @ (query[:, kept] @ score_map @ key[:, kept].T - query @ key.T) @ key[:, kept]
        for _, query, key in images
    )
    torch.testing.assert_close(residual, torch.zeros_like(residual), rtol=0, atol=1e-4)
    folded, folded_bias = fold_into_query(weight[kept], bias[kept], score_map)
    x, query, _ = images[0]
    torch.testing.assert_close(x @ folded.T + folded_bias, query[:, kept] @ score_map)


WIDTH, HEADS, SIZE = 16, 2, 6  # of a head


class Attention(nn.Module):
    """Self-attention with one projection for queries, keys and values; `written_out`: by matrix products."""

    def __init__(self, size: int, written_out: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, HEADS * (2 * size + SIZE))
        self.proj, self.size, self.written_out = nn.Linear(HEADS * SIZE, WIDTH), size, written_out

    def forward(self, x: Tensor) -> Tensor:
        count, length, _ = x.shape
        q, k, v = self.qkv(x).split((HEADS * self.size, HEADS * self.size, HEADS * SIZE), dim=-1)
        q, k, v = (part.view(count, length, HEADS, -1).transpose(1, 2) for part in (q, k, v))
        if self.written_out:
            mixed = (q @ k.transpose(-2, -1) * SIZE**-0.5).softmax(-1) @ v
        else:
            mixed = scaled_dot_product_attention(q, k, v, scale=SIZE**-0.5)
        return x + self.proj(mixed.transpose(1, 2).reshape(count, length, -1))


def without(dense: Attention, removed: list[int]) -> tuple[Attention, dict[str, dict[int, tuple[int, ...]]]]:
    """The attention whose heads lack some dimensions of queries and keys."""
    dims = [dim for dim in range(SIZE) if dim not in removed]
    score = [part * HEADS * SIZE + head * SIZE + dim for part in (0, 1) for head in range(HEADS) for dim in dims]
    rows = [*score, *range(2 * HEADS * SIZE, 3 * HEADS * SIZE)]
    slim = Attention(len(dims), dense.written_out).eval()
    slim.qkv.weight.data, slim.qkv.bias.data = dense.qkv.weight.data[rows].clone(), dense.qkv.bias.data[rows].clone()
    slim.proj = copy.deepcopy(dense.proj)
    return slim, {"qkv.weight": {0: tuple(rows)}, "qkv.bias": {0: tuple(rows)}}


def dense_attention(written_out: bool) -> Attention:
    """An attention whose dimensions 1 and 4 of queries and keys follow from the dimension before them."""
    torch.manual_seed(0)
    dense = Attention(SIZE, written_out).eval()
    for part in (0, 1):
        for head in range(HEADS):
            first = part * HEADS * SIZE + head * SIZE
            for dim, factor in ((1, 2.0), (4, -1.5)):
                dense.qkv.weight.data[first + dim] = factor * dense.qkv.weight.data[first + dim - 1]
                dense.qkv.bias.data[first + dim] = factor * dense.qkv.bias.data[first + dim - 1]
    return dense


@pytest.mark.parametrize("written_out", [False, True])
def test_dimensions_that_follow_from_others_are_made_up_for(written_out: bool) -> None:
    dense = dense_attention(written_out)
    slim, kept = without(dense, [1, 4])
    x = torch.randn(60, 10, WIDTH)
    result = reconstruct(dense, slim, kept, [(x,)], ReconstructionSettings(ridges=(0.0,)))
    scores = next(layer for layer in result.layers if layer.name == "qkv, scores")
    assert scores.accepted
    assert scores.error_before > 0.1
    assert scores.error_after < 1e-8
    with torch.no_grad():
        assert float((result.module(x) - dense(x)).abs().max()) < 1e-4 < float((slim(x) - dense(x)).abs().max())


def test_the_best_ridge_is_chosen_on_other_images_and_nothing_worse_is_taken() -> None:
    dense = dense_attention(False)
    slim, kept = without(dense, [0, 3, 5])
    x = torch.randn(40, 10, WIDTH)
    result = reconstruct(dense, slim, kept, [(x,)], ReconstructionSettings())
    scores = next(layer for layer in result.layers if layer.name == "qkv, scores")
    assert scores.accepted == (scores.error_after < scores.error_before)
    few = reconstruct(dense, slim, kept, [(x[:1],)], ReconstructionSettings())
    assert torch.equal(few.module.qkv.weight, slim.qkv.weight)


class Turned(nn.Module):
    """Queries that a norm or a rotation changes are no output of a linear layer."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.q, self.k, self.norm, self.change = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8), change

    def forward(self, x: Tensor) -> Tensor:
        q = {"norm": self.norm, "rotation": lambda q: q.roll(1, -1) * q.cos(), "none": lambda q: q * 2}[self.change](
            self.q(x)
        )
        return scaled_dot_product_attention(q, self.k(x), x)


@pytest.mark.parametrize(("change", "is_linear"), [("norm", False), ("rotation", False), ("none", True)])
def test_only_moved_outputs_of_a_linear_layer_are_traced(change: str, is_linear: bool) -> None:
    program = record(Turned(change).eval(), torch.randn(2, 5, 8))
    (call,) = find_attention_calls(program)
    assert call.scale == pytest.approx(8**-0.5)
    projection = find_query_projection(program, call)
    assert (projection is not None) == is_linear
    if projection is not None:
        assert projection.weight == "q.weight"
        assert projection.rows.tolist() == [list(range(8))] * 2


def test_other_products_are_no_attention() -> None:
    class Products(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x @ x.transpose(1, 2)).relu() @ x

    assert find_attention_calls(record(Products(), torch.randn(2, 5, 8))) == []
