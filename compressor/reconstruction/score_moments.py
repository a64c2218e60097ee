"""The map between the kept dimensions of queries and keys that makes up for the removed ones.

The scores of a head are c q k^T. A map M between the kept dimensions compensates:

    minimize over M   sum over images || c_s Q_S M K_S^T - c Q K^T ||^2 + lambda || M - I ||^2

A softmax does not change with a constant for each query, so that keys are centred over the tokens of an image first.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_STEPS = 30  # of conjugate gradients
TOLERANCE = 1e-6


class ScoreMoments:
    """What determines M, for one head. Shapes: T tokens, d dense and s kept dimensions, B images."""

    def __init__(self) -> None:
        self._queries: list[Tensor] = []  # Q_S^T Q_S
        self._keys: list[Tensor] = []  # K_S^T K_S
        self._right: Tensor | float = 0.0
        self._total = 0.0

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self._queries)

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
        self._queries.append(query.T @ query)
        self._keys.append(key.T @ key)
        self._right = self._right + (query.T @ dense_query) @ (dense_key.T @ key)
        self._total += float(((dense_query.T @ dense_query) * (dense_key.T @ dense_key)).sum())

    def error(self, score_map: Tensor) -> float:
        """Squared error of the scores relative to those of the dense model.

        Args:
            score_map: M (s, s).

        Returns:
            The error; 0 without any scores.
        """
        squared = (score_map * self._image_of(score_map)).sum()
        error = float(squared - 2 * (score_map * self._right).sum()) + self._total
        return max(0.0, error) / self._total if self._total > 0 else 0.0

    def solve(self, ridge: float = 0.0) -> Tensor:
        """Solve by conjugate gradients, from M = I.

        Args:
            ridge: Pulls towards the identity, relative to the mean of the system's diagonal.

        Returns:
            M (s, s).
        """
        queries, keys = torch.stack(self._queries), torch.stack(self._keys)
        size = queries.shape[-1]
        diagonals = queries.diagonal(dim1=1, dim2=2).mean(1) * keys.diagonal(dim1=1, dim2=2).mean(1)
        strength = ridge * float(diagonals.sum())
        identity = torch.eye(size, dtype=queries.dtype)
        solved = identity.clone()
        residual = self._right - self._image_of(solved)
        direction, squared = residual.clone(), float(residual.square().sum())
        enough = TOLERANCE**2 * squared
        for _ in range(MAX_STEPS):
            if squared <= enough or squared == 0:
                break
            image = self._image_of(direction) + strength * direction
            curvature = float((direction * image).sum())
            if curvature <= 0:
                break
            solved += squared / curvature * direction
            residual = residual - squared / curvature * image
            before, squared = squared, float(residual.square().sum())
            direction = residual + squared / before * direction
        return solved

    def _image_of(self, score_map: Tensor) -> Tensor:
        image: Tensor = (torch.stack(self._queries) @ score_map @ torch.stack(self._keys)).sum(0)
        return image
