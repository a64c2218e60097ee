"""Results of a sweep as the table in coverage.md.

python tests/sweep/table.py results.jsonl [again.jsonl ...] > tests/sweep/coverage.md

Where a model is in several files, the last one counts.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models import ROOMS, names  # beside this file

LIBRARY = {"classification": "56 of 70", "segmentation": "6 of 6", "detection": "6 of 12", "timm": "35 of 95"}
"""What torch-pruning 1.6.1 prunes without hints, of the models it was tried on."""
NORMS = "restricted-dense-float64"


def main() -> None:
    lines = (line for path in sys.argv[1:] for line in Path(path).read_text().splitlines())
    rows = {row["name"]: row for row in map(json.loads, lines)}
    print("\n".join(page(rows)))


def packages() -> str:
    """The versions that a sweep ran with."""
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "torchvision", "onnx", "onnxruntime"))


def page(rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The whole page, line by line."""
    yield "# Coverage: half of the multiply-adds, no settings"
    yield ""
    yield f"{date.today()}; {packages()}; one thread. `python tests/sweep/run.py --rooms {' '.join(ROOMS)} --onnx`."
    yield ""
    yield "Random weights, statistics and constants that are neither zero nor one; inputs of 64 pixels where an"
    yield "architecture takes them. Each model in a process of its own: 120 s of CPU, 12 GB. Passed: MACs at 50 %, slim"
    yield "equal to dense without the removed channels in float64 (1e-9), predicted cost exact. Of these, `norms`: the"
    yield "target needed channels that normalisations mix, and the dense model's norms saw the kept channels only."
    yield "`ONNX equal`: exported to ONNX, run and compared as well, which a run without `--onnx` leaves out. `Before a"
    yield "choice`: of these, detectors whose random scores tie, so that rounding decides which boxes they answer with;"
    yield "compared is what the layers up to that choice write."
    yield ""
    yield (
        "| room | models | tried | passed | of these norms | ONNX equal | before a choice | statement | rest "
        "| torch-pruning 1.6.1 |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for room in ROOMS:
        yield _summary(room, [rows[name] for name in names(room) if name in rows])
    yield ""
    yield from _frozen(list(rows.values()))
    for room in ROOMS:
        yield ""
        yield f"## {room}"
        yield "| model | outcome | MACs | parameters | free groups | error | analyse s | all s |"
        yield "|---|---|---|---|---|---|---|---|"
        yield from (_line(rows[name]) for name in names(room) if name in rows)


def _summary(room: str, rows: Sequence[dict[str, Any]]) -> str:
    counts = Counter(row["outcome"] for row in rows)
    norms = sum(row.get("kind") == NORMS for row in rows if row["outcome"] == "ok")
    exported = [row for row in rows if row["outcome"] == "ok" and "parity" in row]
    chosen = sum(row.get("compared", "answers") != "answers" for row in exported)
    rest = len(rows) - counts["ok"] - counts["statement"]
    cells = (
        room, len(names(room)), len(rows), counts["ok"], norms, len(exported), chosen, counts["statement"], rest,
        LIBRARY.get(room, ""),
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def _frozen(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "## What stays whole, and why"
    yield "Groups over all models, at what each model ended with."
    yield ""
    yield "| groups | reason |"
    yield "|---|---|"
    reasons: Counter[str] = Counter()
    for row in rows:
        reasons.update(row.get("reasons", {}))
    yield from (f"| {count} | {reason} |" for reason, count in reasons.most_common())


def _line(row: dict[str, Any]) -> str:
    reasons = row.get("reasons", {})
    seconds = row.get("seconds", {})
    outcome = row["outcome"] if row["outcome"] != "ok" else ("norms" if row["kind"] == NORMS else "exact")
    if "error" in row:
        outcome += f": {row['error'].split('; ')[0].replace('|', '/')[:160]}"
    certificate = row.get("certificate")
    cells = (
        row["name"].partition(":")[2], outcome, _share(row.get("share")), _share(row.get("params share")),
        f"{reasons.get('free', 0)} of {sum(reasons.values())}", "" if certificate is None else f"{certificate:.0e}",
        seconds.get("analyse", ""), round(sum(seconds.values()), 1),
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
