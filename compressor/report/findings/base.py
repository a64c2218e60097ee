"""What a finding is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from compressor.report.blocks import Block
from compressor.report.run_result import RunResult
from compressor.report.svg import Figure

Report = dict[str, Any]
"""report.json: the keys of all findings. What each key holds is a TypedDict in the file of its finding."""


class Finding:
    """One fact about a run: its keys in report.json, its lines on the terminal and its blocks on the page.

    To add one, write a file here with a subclass; `findings()` discovers it. Heavy imports belong into `record`.

    Attributes:
        order: place among the findings; blocks of one kind appear in this order.
        detail: whether only the page shows it: the terminal shows what is read first.
    """

    order: ClassVar[int]
    detail: ClassVar[bool] = False

    def record(self, run: RunResult) -> Mapping[str, object]:
        """Return the keys of report.json that hold this fact; nested objects of several findings are merged."""
        return {}

    def terminal(self, report: Report) -> Iterable[Block]:
        """Yield what the terminal shows of this fact."""
        return ()

    def page(self, report: Report) -> Iterable[Block]:
        """Yield what the page shows of this fact, by default the same as the terminal."""
        return self.terminal(report)

    def figures(self, run: RunResult) -> Iterable[Figure]:
        """Yield figures of what is too large for report.json."""
        return ()


def finite(value: float | None) -> float | None:
    """`value`, or None where JSON has no number for it (NaN and infinities)."""
    return float(value) if value is not None and math.isfinite(value) else None


def finite_interval(bounds: tuple[float, float] | None) -> list[float] | None:
    """Both bounds, or None unless both are finite."""
    return [float(bound) for bound in bounds] if bounds and all(map(math.isfinite, bounds)) else None
