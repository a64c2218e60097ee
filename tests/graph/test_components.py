"""Connected components against those of SciPy."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components as components_of_scipy

from compressor.graph.components import connected_components


@given(st.data(), st.integers(1, 60), st.integers(0, 80))
def test_components_are_those_of_scipy(data: st.DataObject, count: int, edges: int) -> None:
    ends = st.lists(st.integers(0, count - 1), min_size=edges, max_size=edges)
    left, right = (np.array(data.draw(ends), dtype=np.int64) for _ in range(2))
    ties = coo_array((np.ones(edges, dtype=np.int8), (left, right)), shape=(count, count))
    assert connected_components(count, left, right).tolist() == components_of_scipy(ties, directed=False)[1].tolist()


def test_a_long_path_in_any_order_is_one_component() -> None:
    order = np.random.default_rng(0).permutation(100_000)
    assert not connected_components(100_000, order[:-1], order[1:]).any()
