"""Seconds of each stage of a run, alone and beside a busy loop, with our OpenMP settings and with the library's own.

    python tests/benchmarks/busy_neighbour.py [--repeats 3] [--busy 2] [-- MODEL --recipe RECIPE ...]

The four arms run in turn. One line for each stage: median seconds of each arm; ours beside the loop / ours alone, which
should be 2.2 at most; and ours alone / the library's own alone, which should be 1.02 at most. Run it on a machine that
does nothing else: another neighbour is in all arms, though not in equal parts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

RUN = ["cifar:resnet8@digits", "--recipe", "quickstart"]
LIBRARY = {"GOMP_SPINCOUNT": "300000"}  # libgomp's default where there are no more threads than CPUs
ARMS: dict[str, tuple[bool, Mapping[str, str]]] = {
    "alone": (False, {}),
    "busy": (True, {}),
    "alone, library": (False, LIBRARY),
    "busy, library": (True, LIBRARY),
}


@contextmanager
def busy_loop(processes: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def stages(run: list[str], extra: Mapping[str, str]) -> dict[str, float]:
    """Seconds of each stage of one run; `all` is the process."""
    with TemporaryDirectory() as folder:
        start = perf_counter()
        command = [sys.executable, "-m", "compressor", *run, "-o", f"{folder}/out", "-q"]
        subprocess.run(command, env={**os.environ, **extra}, check=False, stdout=subprocess.DEVNULL)
        seconds = perf_counter() - start
        report = json.loads(Path(folder, "out", "report.json").read_text())
    return {**report["seconds"], "all": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", type=int, default=2, help="processes that loop")
    parser.add_argument("run", nargs="*", default=RUN)
    arguments = parser.parse_args()
    times: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for _ in range(arguments.repeats):
        for arm, (is_busy, extra) in ARMS.items():
            with busy_loop(arguments.busy if is_busy else 0):
                times[arm].append(stages(arguments.run, extra))
    print("stage", *ARMS, "busy / alone", "alone / library's", sep=" | ")
    for stage in times["alone"][0]:
        values = [median(run[stage] for run in times[arm]) for arm in ARMS]
        print(stage, *(f"{value:.2f} s" for value in values), *map("{:.2f}".format, ratios(values)), sep=" | ")


def ratios(seconds: list[float]) -> tuple[float, float]:
    """Busy / alone, and alone / alone with the library's settings, from the seconds of the four arms."""
    alone, busy, library, _ = seconds
    return busy / alone, alone / library


if __name__ == "__main__":
    main()
