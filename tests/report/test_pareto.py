"""Several targets for people: a table that fits, a page with figures, and nothing obeyed that comes from names."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from compressor.report.html import render_pareto
from compressor.report.pareto_result import Pareto, ParetoPoint, pareto_figures, show_pareto

HOSTILE = "[bold red]net[/] <script>\x1b[2J\u202e.pt"


def point(share: int, ms: float | None, kept: float, accuracy: float | None) -> ParetoPoint:
    return {
        "asked": f"latency: {share}%",
        "reason": None,
        "slim": {"params": share * 10_000, "macs": share * 1_000_000},
        "memory": share * 40_000,
        "latency": None if ms is None else {
            "dense_ms": 10.0, "slim_ms": ms, "slim_interval_ms": [0.9 * ms, 1.1 * ms],
            "ratio": 10 / ms, "ratio_interval": [10 / (1.1 * ms), 10 / (0.9 * ms)], "measured": False,
        },
        "kept": kept,
        "risk": None if accuracy is None else {
            "metric": "accuracy", "split": "held-out", "dense": 92.0, "slim": accuracy,
        },
    }  # fmt: skip


def several(*, timed: bool = True, risky: bool = True) -> Pareto:
    shares = ((70, 7.0, 0.9, 85.5), (50, 5.0, 0.75, 61.25), (35, 3.5, 0.6, 20.0))
    points = [point(share, ms if timed else None, kept, risk if risky else None) for share, ms, kept, risk in shares]
    reason = "latency cannot be reduced below 8.1%, the target is 5.0%"
    points.append(
        {
            "asked": "latency: 5%", "reason": reason, "slim": None,
            "memory": None, "latency": None, "kept": None, "risk": None,
        }
    )  # fmt: skip
    dense = {"params": 1_000_000, "macs": 100_000_000}
    return {"model": HOSTILE, "method": "l1", "device": "pi5" if timed else None, "dense": dense, "points": points}


def printed(found: Pareto, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    show_pareto(found, console)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return text


def test_the_table_has_a_row_for_each_target_that_can_be_met() -> None:
    text = " ".join(printed(several()).split())
    assert "latency: 70% 7.00 ms 6.30 to 7.70 70.0% 70.0% 90.0% 85.5" in text
    assert "latency: 35% 3.50 ms 3.15 to 3.85 35.0% 35.0% 60.0% 20" in text
    assert "latency: 5% not reachable: latency cannot be reduced below 8.1%, the target is 5.0%" in text
    assert "of the dense model's 100.0 M MACs and 1,000,000 params" in text
    assert "on pi5, where the dense model takes 10.0 ms; predicted" in text
    assert "accuracy on a few held-out images" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_columns_that_nothing_is_known_of_are_left_out() -> None:
    text = printed(several(timed=False, risky=False))
    assert "interval" not in text
    assert "untrained" not in text.lower()


@pytest.mark.parametrize(("timed", "risky", "count"), [(True, True, 2), (True, False, 1), (False, False, 1)])
def test_figures_put_every_plan_between_nothing_and_the_dense_model(timed: bool, risky: bool, count: int) -> None:
    drawn = pareto_figures(several(timed=timed, risky=risky))
    assert len(drawn) == count
    for each in drawn:
        picture = str(each.picture)
        across = [float(x) for x in re.findall(r'<circle class="dot slim" cx="([\d.]+)"', picture)]
        (dense,) = re.findall(r'<circle class="dot dense" cx="([\d.]+)"', picture)
        left, whole = 56.0, float(dense) - 56.0
        assert [round((x - left) / whole, 2) for x in across] == [0.35, 0.5, 0.7]
        assert picture.count('class="interval"') == (3 if timed else 0)
        assert "latency: 35%</text>" in picture


def test_the_page_asks_nobody_for_anything_and_obeys_no_name() -> None:
    page = render_pareto(several())
    tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            assert not {name for name, _ in attrs} & {"src", "href", "onload"}

    Reader().feed(page)
    assert "script" not in tags
    assert tags.count("svg") == 2
    assert "&lt;script&gt;" in page
    assert "latency: 5%" in page
    assert "\x1b" not in page
