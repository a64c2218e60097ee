"""Results as they come: one JSON line a run in a file that a later call goes on with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import mean, stdev


def collected(
    out: Path, keys: Iterable[dict[str, object]], run: Callable[..., Mapping[str, object]]
) -> list[dict[str, object]]:
    """What `out` holds, and what `run(**key)` found for each of the keys that no line there has yet."""
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    for key in keys:
        if not any(key.items() <= row.items() for row in rows):
            rows.append({**key, **run(**key)})
            with out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(rows[-1], flush=True)
    return rows


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation."""
    if not values:
        return "–"
    return f"{mean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"
