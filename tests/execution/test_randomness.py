from __future__ import annotations

from compressor.execution.randomness import seeded_generator


def test_seeds_differ_by_index() -> None:
    assert seeded_generator(7).initial_seed() == 7
    assert seeded_generator(7, 3).initial_seed() == 7 * 1_000_003 + 3
    assert seeded_generator(2**32 - 1, 5, 11).initial_seed() == (((2**32 - 1) * 1_000_003 + 5) * 1_000_003 + 11) % 2**63
