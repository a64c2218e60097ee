"""Bottlenecks and the figure of the layers' times, from times by hand."""

from __future__ import annotations

from compressor.core import LAYOUT_COPIES
from compressor.report.findings.layer_times import LayerTimeRecord, layer_times_figure, remaining_bottlenecks


def row(name: str, before: float | None, after: float | None, octets: int = 0) -> LayerTimeRecord:
    return {
        "name": name,
        "op": "Conv",
        "before_us": before,
        "after_us": after,
        "before_bytes": octets,
        "after_bytes": octets,
    }


def test_nothing_is_said_without_profiles_or_when_all_is_well() -> None:
    assert remaining_bottlenecks([]) == []
    assert remaining_bottlenecks([row("a", 100.0, 50.0), row("b", 100.0, 50.0)]) == []


def test_copies_layers_that_stayed_and_layers_bound_by_memory() -> None:
    copies, slow, bound = remaining_bottlenecks(
        [
            row("conv", 100.0, 40.0, 40_000),  # 1,000 bytes a microsecond, computes
            row("pool", 40.0, 20.0, 200_000),  # 10,000, the highest rate
            row("wide", 30.0, 15.0, 90_000),  # 6,000, more than half of it
            row("stuck", 15.0, 15.0),
            row(LAYOUT_COPIES, 2.0, 10.0),
            row("gone", 9.0, None),
        ]
    )
    assert copies.startswith("10%")
    assert slow.startswith("25%")
    assert slow.endswith(": stuck, layout copies.")
    assert bound.startswith("35%")
    assert "10.0 GB/s" in bound
    assert bound.endswith(": pool, wide.")


def test_the_figure_has_a_pair_of_bars_for_the_slowest_rows() -> None:
    rows = [row(f"layer{n}<&>", 10.0 + n, 5.0 + n) for n in range(40)]
    picture = str(layer_times_figure(rows).picture)
    assert picture.count('<rect class="dense"') == picture.count('<rect class="slim"') == 24 + 1  # with the legend's
    assert "layer16&lt;&amp;&gt;" in picture, "the slowest 24 of 40"
    assert "layer15&lt;" not in picture
    assert "24 slowest of 40 rows" in picture
