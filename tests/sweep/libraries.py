"""Prune networks of libraries at half of their multiply-adds, each in a process of its own, and write a table.

    python tests/sweep/libraries.py --out results.jsonl --table libraries.md [--names transformers:BertModel ...]

The networks are small and have random weights; `library_networks.py` beside this file builds them. A library that is
not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from library_networks import NETWORKS  # beside this file

CPU_SECONDS, WALL_SECONDS = 120, 1500
GUTTED = 0.25  # share of its channels below which a layer counts as gutted
OPTIONS = ("-r", "l1", "--target", "none", "--force", "--set", "prune.target={macs: 50%}", "--json", "-q")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--names", nargs="*", default=list(NETWORKS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    rows = {row["name"]: row for row in map(json.loads, lines)}
    for name in options.names:
        if name not in rows:
            rows[name] = limited(name)
            with options.out.open("a") as file:
                file.write(json.dumps(rows[name]) + "\n")
            print(json.dumps(rows[name])[:300], flush=True)
    if options.table:
        options.table.write_text(table(list(rows.values())))


def limited(name: str) -> dict[str, Any]:
    """The result of one network, whatever becomes of its process."""
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(sender, name))
    start = time.perf_counter()
    process.start()
    sender.close()
    row: dict[str, Any] = {"name": name, "exit": "no end"}
    if receiver.poll(WALL_SECONDS):
        try:
            row |= receiver.recv()
        except EOFError:
            row["error"] = "killed: its limit of CPU seconds"
    process.join(5)
    if process.exitcode is None:
        process.kill()
    return row | {"wall": round(time.perf_counter() - start)}


def _child(pipe: Connection, name: str) -> None:
    torch.set_num_threads(1)
    spent = int(time.process_time()) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (spent + CPU_SECONDS, spent + CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    try:
        pipe.send(prune(name))
    except BaseException as error:
        pipe.send(
            {"exit": "sweep", "error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-2000:]}
        )


def prune(name: str) -> dict[str, Any]:
    """Run `compress` on a network at half of its multiply-adds, and read its report."""
    from compressor.cli import run

    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "net.py"
        here = str(Path(__file__).parent)
        code.write_text(
            f"import sys\nsys.path.insert(0, {here!r})\nfrom library_networks import network\n\n"
            f"make, example_inputs = network({name!r})\n"
        )
        out, printed = Path(folder) / "out", Path(folder) / "printed"
        with printed.open("w") as file:
            status = _with_stdout(file.fileno(), lambda: run([f"{code}:make", *OPTIONS, "-o", str(out)]))
        if not (out / "report.json").is_file():
            error = json.loads(printed.read_text().splitlines()[-1]).get("error", {})
            return {"exit": status, "error": f"{error.get('code')}: {error.get('problem', '')}"[:400]}
        return {"exit": status, **facts(json.loads((out / "report.json").read_text()))}


def facts(report: dict[str, Any]) -> dict[str, Any]:
    """What the table shows of a report."""
    layers = report.get("layers") or []
    shares = [layer["after"] / layer["before"] for layer in layers if layer.get("before") and layer["after"]]
    dense, slim = report["dense"], report["slim"]
    return {
        "macs": slim["macs"] / dense["macs"],
        "params": slim["params"] / dense["params"],
        "smallest": min(shares, default=None),
        "warned": any("quarter" in warning for warning in report["warnings"]),
        "prunable": report["coverage"]["prunable_macs_percent"] / 100,
        "certificate": report["certificate"]["ok"],
        "kind": report["certificate"]["kind"],
        "onnx": report["onnx"]["ok"],
    }


def _with_stdout(descriptor: int, function: Callable[[], int]) -> int:
    """Call a function with file descriptor 1 elsewhere: libraries print there."""
    import os

    kept = os.dup(1)
    sys.stdout.flush()
    os.dup2(descriptor, 1)
    try:
        return function()
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    good = [row for row in rows if row["exit"] == 0]
    gutted = [row for row in good if (row.get("smallest") or 1) < GUTTED and not row["warned"]]
    failed = [row for row in rows if row["exit"] == 1]
    lines = [
        "# Libraries: half of the multiply-adds, no settings",
        "",
        f"{len(good)} of {len(rows)} end with 0; {len(gutted)} below a quarter of a layer without a warning; "
        f"{len(failed)} internal errors.",
        "",
        "| network | exit | MACs | parameters | smallest layer | prunable | certificate | ONNX | reason |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["name"], row["exit"], *(_percent(row.get(key)) for key in ("macs", "params", "smallest"))]
        cells += [_percent(row.get("prunable")), *(_yes(row.get(key)) for key in ("certificate", "onnx"))]
        lines.append(f"| {' | '.join(map(str, cells))} | {row.get('error', '').replace('|', '/')[:120]} |")
    return "\n".join(lines) + "\n"


def _percent(value: object) -> str:
    return f"{100 * value:.0f} %" if isinstance(value, float) else ""


def _yes(value: object) -> str:
    return "" if value is None else "ok" if value else "no"


if __name__ == "__main__":
    sys.exit(main())
