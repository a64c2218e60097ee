"""The query and key projections of an attention that lost some of its width.

The scores of a head are q k^T. With some dimensions removed, a map M between the kept ones compensates:

    minimise over M   sum over images || Q_S M K_S^T - Q K^T ||^2 + lambda || M - I ||^2

A softmax does not change with a constant for each query, so that keys are centred over the tokens of an image first. M
is folded into the query projection; keys are sliced. Values and the output projection are a linear layer and its
reader.
"""

from __future__ import annotations

import torch
from torch import Tensor


class ScoreMoments:
    """Sums over images that determine M exactly, for one head. Shapes: T tokens, d dense and s kept dimensions."""

    def __init__(self) -> None:
        self._system: Tensor | float = 0.0
        self._right: Tensor | float = 0.0
        self._kept = 0

    def add(self, query: Tensor, key: Tensor, dense_query: Tensor, dense_key: Tensor, *, centre: bool = True) -> None:
        """Add one image.

        Args:
            query: Kept dimensions of the queries, (T, s).
            key: Kept dimensions of the keys, (T, s).
            dense_query: (T, d).
            dense_key: (T, d).
            centre: Whether keys are centred over tokens, as a softmax allows.
        """
        query, key, dense_query, dense_key = (part.double() for part in (query, key, dense_query, dense_key))
        if centre:
            key, dense_key = key - key.mean(0), dense_key - dense_key.mean(0)
        self._kept = query.shape[1]
        self._system = self._system + torch.kron(key.T @ key, query.T @ query)
        self._right = self._right + (query.T @ dense_query) @ (dense_key.T @ key)

    def solve(self, ridge: float = 0.0) -> Tensor:
        """The map M (s, s).

        Args:
            ridge: Pulls towards the identity, relative to the mean of the system's diagonal.
        """
        assert isinstance(self._system, Tensor), "no image was added"
        assert isinstance(self._right, Tensor)
        strength = ridge * self._system.diagonal().mean()
        system = self._system + strength * torch.eye(len(self._system), dtype=torch.float64)
        identity = torch.eye(self._kept, dtype=torch.float64)
        right = (self._right + strength * identity).T.reshape(-1)  # columns first
        solved: Tensor = torch.linalg.lstsq(system, right.unsqueeze(1)).solution
        return solved.reshape(self._kept, self._kept).T


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
