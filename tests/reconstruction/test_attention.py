from __future__ import annotations

import pytest
import torch

from compressor.reconstruction.attention import ScoreMoments, fold_into_query


def test_check_11_a_map_between_kept_dimensions() -> None:
    query = torch.tensor([[1.0, 2], [2, 4], [3, 6]])
    key = torch.tensor([[1.0, 1], [0, 2], [2, 0]])
    moments = ScoreMoments()
    moments.add(query[:, :1], key[:, :1], query, key, centre=False)
    score_map = moments.solve()
    assert score_map.item() == pytest.approx(1.4)

    def error(factor: float) -> float:
        return float((factor * query[:, :1] @ key[:, :1].T - query @ key.T).square().sum())

    assert error(1.4) == pytest.approx(268.8)
    assert error(1.0) == pytest.approx(280)
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
    torch.testing.assert_close(residual, torch.zeros_like(residual), rtol=0, atol=1e-9)
    folded, folded_bias = fold_into_query(weight[kept], bias[kept], score_map)
    x, query, _ = images[0]
    torch.testing.assert_close(x @ folded.T + folded_bias, query[:, kept] @ score_map)
