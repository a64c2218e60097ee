"""Rounds of a comparison: in each, a new process times all models in turn, window by window.

Noise from other programs lasts for tenths of a second, and falls on all models alike if they take turns faster: the
ratio of two models in one process scatters by a fifth of what it does between processes of their own. What a process
keeps, such as the places of its memory, differs from round to round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from compressor.bench.device.protocol import Job, Timing
from compressor.bench.device.session import RunnerSession
from compressor.bench.runner.ort_session import LoadedSession
from compressor.bench.runner.worker import WorkerError
from compressor.bench.timed_inputs import TimedInputs, write_timed_inputs
from compressor.core import EventSink
from compressor.export.onnx_file import OnnxFile
from compressor.export.random_nodes import may_draw

WARM_SECONDS = 0.03  # at least, before the runner checks whether the model is warm
WARM_ACCELERATOR_SECONDS = 2.0  # an accelerator's clock takes longer to rise
WINDOWS = 5  # of each model in a round
LEAST_ROUNDS = 4  # before an interval may be called narrow
MIN_ROUNDS, MAX_ROUNDS = 6, 30  # that the measuring time is divided into
BUDGET = 2  # times these rounds, while the interval is too wide
MAX_SHARED_BYTES = 2**31  # of all models of a round; larger ones get processes of their own, one after the other
A, B, CONTROL = "a", "b", "control"

Arms = Mapping[str, Sequence[Timing]]
"""arm -> its block of each round"""


@dataclass(frozen=True, slots=True)
class Interleaved:
    """What is measured in turn: the file of each arm with its expected outputs, and how a process times them."""

    files: Mapping[str, tuple[Path, Path | None]]
    job: Job  # its models and references are replaced
    shared: bool  # whether one process holds all models

    def blocks(self, session: RunnerSession, order: Sequence[str]) -> Mapping[str, Timing]:
        """Run one round on the device.

        Args:
            session: The connection to the device.
            order: Names of the arms, in the order in which they run.

        Returns:
            Arm -> its timing.
        """
        parts = [order] if self.shared else [[arm] for arm in order]
        timings = (timing for part in parts for timing in session.run(self._job(part)))
        return dict(zip(order, timings, strict=True))

    def peak_bytes(self, session: RunnerSession, arm: str) -> int:
        """Measure the memory of a process that holds one model only.

        Args:
            session: The connection to the device.
            arm: The name of its arm.

        Returns:
            Peak memory in bytes.
        """
        job = replace(self._job([arm]), window_s=0.0, windows=1, warm_s=0.0)
        return session.run(job)[0].peak_bytes

    def _job(self, arms: Sequence[str]) -> Job:
        models, references = zip(*(self.files[arm] for arm in arms), strict=True)
        return replace(self.job, models=models, references=references, timeout=len(arms) * self.job.timeout)


def interleave(
    session: RunnerSession,
    files: Mapping[str, OnnxFile],
    folder: Path,
    inputs: TimedInputs | None,
    *,
    batch: int,
    seconds: float,
) -> Interleaved:
    """Prepare the arms: the files, and a copy of the first as control.

    Args:
        session: The device.
        files: The files of the arms `a` and, where there is one, `b`.
        folder: Where the control's copy, the inputs and the expected outputs are written.
        inputs: What is run on; None = seeded values.
        batch: Batch size.
        seconds: Measuring time of each arm in a round.

    Returns:
        The arms.
    """
    inputs_path = write_timed_inputs(inputs, folder)
    arms = {}
    for arm, file in files.items():
        reference = folder / f"{arm}.npz"
        arms[arm] = file.path, reference if _write_reference(file.path, batch, inputs_path, reference) else None
    (folder / CONTROL).mkdir()
    arms[CONTROL] = files[A].copy_to(folder / CONTROL), arms[A][1]
    warm_s = WARM_SECONDS if session.device.provider == "cpu" else WARM_ACCELERATOR_SECONDS
    job = Job((), window_s=seconds / WINDOWS, windows=WINDOWS, warm_s=warm_s, batch=batch, inputs=inputs_path)
    sizes = [files[A].size, *(file.size for file in files.values())]
    return Interleaved(arms, job, shared=sum(sizes) <= MAX_SHARED_BYTES)


def _write_reference(model: Path, batch: int, inputs: Path | None, file: Path) -> bool:
    """Write a model's outputs on this machine's CPU to an .npz file; every timed process is compared with them.

    Returns False if there is nothing to compare with: the model draws random numbers, or this machine cannot run it. If
    the device cannot either, its own error is raised later.
    """
    if may_draw(model):
        return False
    request: dict[str, object] = {
        "inputs": str(inputs) if inputs else None,
        "batch": batch,
        "threads": 1,
        "provider": "cpu",
        "options": {},
        "cpu_fallback": False,
        "graph": "all",
    }
    try:
        outputs = LoadedSession(str(model), request).outputs
    except WorkerError:
        return False
    arrays = {f"output{index}": array for index, array in enumerate(outputs) if isinstance(array, np.ndarray)}
    np.savez(file, allow_pickle=False, **arrays)
    return True


def rounds_within(seconds: float) -> int:
    """The number of rounds that `seconds` is divided into.

    Processes differ more than runs, so many short blocks are better than few long ones.
    """
    return min(MAX_ROUNDS, max(MIN_ROUNDS, round(5 * seconds)))


def run_rounds(
    orders: Sequence[Sequence[str]],
    measure: Callable[[Sequence[str]], Mapping[str, Timing]],
    is_enough: Callable[[Arms], bool],
    emit: EventSink,
) -> Arms:
    """Measure one block of each arm in every round.

    Args:
        orders: The arms in the order of each round, for as many rounds as there may be.
        measure: Measures one block of each arm, in an order.
        is_enough: Whether the blocks so far suffice; called after the fourth round and each one after it.
        emit: Receives an event for each block.

    Returns:
        The blocks of each arm.
    """
    arms: dict[str, list[Timing]] = {arm: [] for arm in orders[0]}
    for round_number, order in enumerate(orders, start=1):
        for arm, block in measure(order).items():
            arms[arm].append(block)
            fields = {"round": round_number, "rounds": len(orders), "arm": arm, "cpu_share": block.cpu_share}
            wall, cpu = median(sum(block.wall, ())), median(sum(block.cpu, ()))
            emit("bench", {**fields, "wall_ms": wall, "cpu_ms": cpu})
        if round_number >= LEAST_ROUNDS and is_enough(arms):
            break
    return arms
