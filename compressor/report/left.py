"""What is left to win: sentences on where the slim model's time goes, from the times of its layers."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.core import LAYOUT_COPIES
from compressor.report.schema_latency import LayerTimeRecord
from compressor.report.words import significant

WORTH_A_WORD = 0.03  # of the slim model's time
SHRANK = 0.9  # of the dense model's time that a layer may still take to count as faster
BUSY_US = 5.0  # operators below this are mostly their own start
BOUND = 0.5  # of the highest rate of bytes seen here


def remaining_bottlenecks(layers: Sequence[LayerTimeRecord]) -> list[str]:
    """Layout copies, layers that did not become faster, and layers that wait for memory; nothing without profiles.

    A layer counts as bound by memory where it moves bytes at more than half of the highest rate any operator here
    reached: fewer multiply-adds will not make it faster, only fewer bytes.
    """
    total = sum(layer["after_us"] or 0.0 for layer in layers)
    if not total:
        return []
    found = []
    for layer in layers:
        share = (layer["after_us"] or 0.0) / total
        if layer["name"] == LAYOUT_COPIES and share >= WORTH_A_WORD:
            found.append(f"{share:.0%} of the slim model's time goes into copies from one memory layout to another")
    stuck = [layer for layer in layers if _stuck(layer, total)]
    if stuck:
        share = sum(layer["after_us"] or 0.0 for layer in stuck) / total
        names = ", ".join(layer["name"] for layer in sorted(stuck, key=lambda each: -(each["after_us"] or 0.0))[:4])
        found.append(f"{share:.0%} goes into what did not become faster: {names}{_more(len(stuck) - 4)}")
    bound = [layer for layer in layers if _rate(layer) >= BOUND * max(map(_rate, layers)) > 0]
    share = sum(layer["after_us"] or 0.0 for layer in bound) / total
    if share >= WORTH_A_WORD:
        names = ", ".join(layer["name"] for layer in sorted(bound, key=lambda each: -(each["after_us"] or 0.0))[:4])
        rate = significant(max(map(_rate, layers)) / 1e3)
        found.append(
            f"{share:.0%} goes into what waits for memory rather than computes (the highest rate here is {rate} GB/s): "
            f"{names}{_more(len(bound) - 4)}"
        )
    return found


def _stuck(layer: LayerTimeRecord, total: float) -> bool:
    before, after = layer["before_us"], layer["after_us"]
    return bool(before and after and after >= SHRANK * before and after >= WORTH_A_WORD * total / 2)


def _rate(layer: LayerTimeRecord) -> float:
    """Bytes in a microsecond, which is MB in a second."""
    return layer["after_bytes"] / layer["after_us"] if layer["after_us"] and layer["after_us"] >= BUSY_US else 0.0


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""
