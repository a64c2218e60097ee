"""run.jsonl's events -> what happened epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

QUANTITIES = ("loss", "lr", "accuracy")


def curves(events: Iterable[Mapping[str, object]]) -> dict[str, list[tuple[int, float]]]:
    """Quantity -> [(epoch, value)], from every event that names a whole epoch and a finite quantity.

    The last word on an epoch counts, as after a resumed run. Epochs that start over from the first one belong
    to a second training and go on after the first.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in QUANTITIES}
    start = latest = None
    offset = 0
    for event in events:
        epoch = event.get("epoch")
        values = {name: value for name in QUANTITIES if (value := _number(event.get(name))) is not None}
        if not isinstance(epoch, int) or isinstance(epoch, bool) or not values:
            continue
        if start is None or latest is None:
            start = latest = epoch
        if epoch == start < latest:
            offset += latest - start + 1
        latest = epoch
        for name, value in values.items():
            found[name][offset + epoch] = value
    return {name: sorted(points.items()) for name, points in found.items()}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
