"""Prune networks of libraries and of users at half of their multiply-adds by the command line, and write a table.

    python tests/sweep/libraries.py --out results.jsonl --table libraries.md [--names transformers:BertModel ...]

The networks are small and have random weights; `library_networks.py`, `more_networks.py` and `user_networks.py` beside
this file build them. Each runs in a process of its own, with both ONNX files, and ends with a check of the surgery that
shares no code with the package (see `scattered.py`).
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

import library_networks  # beside this file, as are the others
import more_networks
import torch
import user_networks
from scattered import difference, scattered
from torch import Tensor, nn

CPU_SECONDS, WALL_SECONDS = 180, 900
NETWORKS = (
    *library_networks.NETWORKS,
    *more_networks.NETWORKS,
    *(f"user:{name}" for name in user_networks.NETWORKS),
)
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
            f"import sys\nsys.path.insert(0, {here!r})\nfrom libraries import network\n\n"
            f"make, example_inputs = (lambda: network({name!r})[0]), (lambda: tuple(network({name!r})[1]))\n"
        )
        out, printed = Path(folder) / "out", Path(folder) / "printed"
        with printed.open("w") as file:
            batch_dim = network(name)[2]
            setting = ["--set", f"model.batch_dim={batch_dim}"] if batch_dim else []
            status = _with_stdout(file.fileno(), lambda: run([f"{code}:make", *OPTIONS, *setting, "-o", str(out)]))
        if not (out / "report.json").is_file():
            error = json.loads(printed.read_text().splitlines()[-1]).get("error", {})
            return {"exit": status, "error": f"{error.get('code')}: {error.get('problem', '')}"[:400]}
        row = {"exit": status, **facts(json.loads((out / "report.json").read_text()))}
        return row | {"scattered": None if row["mixed"] else independent_difference(out, name)}


def network(name: str) -> tuple[nn.Module, Sequence[Tensor], int]:
    """Build a network by its name, with a batch of its inputs and their batch dimension."""
    library, _, own = name.partition(":")
    if library == "user":
        return *user_networks.network_of_users(own), getattr(getattr(user_networks, own), "BATCH_DIM", 0)
    if name in more_networks.NETWORKS:
        return *more_networks.build(name), 0
    make, example = library_networks.network(name)
    return make(), [example()], 0


def independent_difference(out: Path, name: str) -> float:
    """Compare the slim module of an output folder with its weights in the middle of zeros, in the dense module."""
    from compressor.models.preparation.prepare import prepare_module
    from compressor.models.saved_model import load_folder

    dense, inputs, _ = network(name)
    slim = load_folder(out)
    return difference(scattered(prepare_module(dense)[0], slim.module, slim.kept), slim.module, inputs)


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
        "mixed": report["certificate"]["kind"].startswith("restricted"),
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
        "Own check: the largest difference to the slim weights in the middle of zeros in the dense module, in float64",
        "(float32 where forward writes it); none where norms mix the removed channels, because it does not hold there.",
        "",
        "| network | exit | MACs | parameters | smallest layer | prunable | certificate | ONNX | own check | reason |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["name"], row["exit"], *(_percent(row.get(key)) for key in ("macs", "params", "smallest"))]
        cells += [_percent(row.get("prunable")), *(_yes(row.get(key)) for key in ("certificate", "onnx"))]
        cells.append("" if row.get("scattered") is None else f"{row['scattered']:.0e}")
        lines.append(f"| {' | '.join(map(str, cells))} | {row.get('error', '').replace('|', '/')[:120]} |")
    return "\n".join(lines) + "\n"


def _percent(value: object) -> str:
    return f"{100 * value:.0f} %" if isinstance(value, float) else ""


def _yes(value: object) -> str:
    return "" if value is None else "ok" if value else "no"


if __name__ == "__main__":
    sys.exit(main())
