"""Connected components, with NumPy alone: importing SciPy's takes a twentieth of `compress inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from compressor.core import IntArray


def connected_components(count: int, left: IntArray, right: IntArray) -> IntArray:
    """Number the components of an undirected graph.

    In each round every root with an edge to a smaller one is hooked to it, and paths are shortened to their ends.
    Shiloach and Vishkin, An O(log n) parallel connectivity algorithm, Journal of Algorithms 3(1), 1982.

    Args:
        count: The number of nodes.
        left: One end of each edge (E,).
        right: The other end (E,).

    Returns:
        The component of each node (count,), in the order of their smallest nodes.
    """
    root = np.arange(count, dtype=np.int64)
    while (apart := (a := root[left]) != (b := root[right])).any():
        np.minimum.at(root, np.maximum(a, b)[apart], np.minimum(a, b)[apart])
        while not np.array_equal(shorter := root[root], root):
            root = shorter
    return np.unique(root, return_inverse=True)[1]
