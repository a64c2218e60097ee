"""Results of onnx_files.py as a page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from models import ROOMS, names  # beside this file
from table import packages  # beside this file

Row = dict[str, Any]


def page(paths: Sequence[Path]) -> Iterator[str]:
    """The whole page, line by line. Where a network is in several lines, the last one of each exporter counts."""
    lines = (line for path in paths for line in path.read_text().splitlines())
    rows: dict[str, Row] = {}
    for row in map(json.loads, lines):
        before = rows.get(row["name"], {}).get("exports", [])
        exports = {_key(entry): entry for entry in (*before, *row.get("exports", ()))}
        rows[row["name"]] = row | {"exports": list(exports.values())}
    yield "# ONNX files: half of the multiply-adds, and the module's groups"
    yield ""
    command = "python tests/sweep/onnx_files.py --rooms ... --out results.jsonl"
    yield f"{date.today()}; {packages()}; one thread. `{command}`."
    yield ""
    yield "Networks with random weights, at 64 pixels where an architecture takes them. Module: half"
    yield "of its multiply-adds can be removed. Of these, per exporter: exported; imported (module and file agree);"
    yield "proven (pruned to half, certificate, and ONNX Runtime answers as the slim module); equal"
    yield "groups (the sizes of all groups that can be pruned are the module's). Share: proven of those exported."
    yield ""
    yield "| room | networks | tried | module | exporter | exported | imported | proven | share | equal groups |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for room in ROOMS:
        members = names(room)
        yield from _room(room, len(members), [rows[name] for name in members if name in rows])
    yield from _failures(rows)
    yield from _other_groups(rows)


def _room(room: str, count: int, rows: Sequence[Row]) -> Iterator[str]:
    with_files = [row for row in rows if row.get("exports")]
    for exporter in dict.fromkeys(_key(entry) for row in with_files for entry in row["exports"]):
        entries = [entry for row in with_files for entry in row["exports"] if _key(entry) == exporter]
        exported = [entry for entry in entries if entry["outcome"] != "not exported"]
        imported = [entry for entry in exported if entry["outcome"] != "not imported"]
        proven = [entry for entry in imported if entry["outcome"] == "pruned"]
        equal = sum(not entry["missing"] and not entry["added"] for entry in proven)
        share = f"{len(proven) / len(exported):.1%}" if exported else ""
        yield (
            f"| {room} | {count} | {len(rows)} | {len(with_files)} | {exporter} | {len(exported)} | {len(imported)} "
            f"| {len(proven)} | {share} | {equal} |"
        )


def _failures(rows: dict[str, Row]) -> Iterator[str]:
    yield from ("", "## What failed", "", "| network | exporter | where | reason |", "|---|---|---|---|")
    for name, row in rows.items():
        if row["outcome"] != "ok":
            yield f"| {name} | {row.get('phase', '')} | {row['outcome']} | {_cell(row.get('error', ''))} |"
        for entry in row.get("exports", ()):
            if entry["outcome"] != "pruned":
                yield f"| {name} | {_key(entry)} | {entry['outcome']} | {_cell(entry.get('error', ''))} |"


def _other_groups(rows: dict[str, Row]) -> Iterator[str]:
    yield from ("", "## Groups that differ", "", "| network | exporter | only in the module | only in the file |")
    yield "|---|---|---|---|"
    for name, row in rows.items():
        for entry in row.get("exports", ()):
            if entry.get("missing") or entry.get("added"):
                cells = (_cell(" ".join(map(str, entry[key])), 60) for key in ("missing", "added"))
                yield f"| {name} | {_key(entry)} | {' | '.join(cells)} |"


def _key(entry: Row) -> str:
    return f"{entry['exporter']} {entry['opset'] or 'newest'}"


def _cell(text: str, width: int = 160) -> str:
    return " ".join(re.sub(r"\x1b\[\d*m", "", text).replace("|", "/").split())[:width]
