"""What a training takes: its batches' time, memory at its peak, energy. Watched from outside, without another pass."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import nn

from compressor.core import TrainingCost
from compressor.training.memory import return_freed_memory
from compressor.training.settings import TrainSettings

PROCESS = Path("/proc/self")
RESET_PEAK = "5"  # proc_pid_clear_refs(5)

Joules = Callable[[], float | None]
"""energy used since some moment by all that is metered here; None where there is no meter"""


def no_energy_meter() -> None:
    """Joules where nobody asks for them."""


class CostMeter:
    """Watches this process, or its GPU, from now on. Looked at once an epoch; a batch costs it nothing."""

    def __init__(self, module: nn.Module, device: torch.device, joules: Joules) -> None:
        self._joules, self._read = joules, joules()
        self._peak = _peak(module, device)

    def begin(self) -> None:
        """Of what follows the energy counts."""
        self._read = self._joules()

    def energy(self) -> float | None:
        """Joules since this was asked last, or since `begin`; None where there is no meter or it started over."""
        before, self._read = self._read, self._joules()
        return self._read - before if before is not None and self._read is not None and self._read >= before else None

    def first_peak(self) -> dict[str, float]:
        """`peak_bytes` since the meter was made, at the first asking: what comes later also holds evaluations."""
        found = self._peak()
        self._peak = _nothing
        return {} if found is None else {"peak_bytes": found}


def training_cost(
    step: TrainSettings, module: nn.Module, device: torch.device, records: Sequence[Mapping[str, float]]
) -> TrainingCost:
    """What the epochs of `records` took: sums of seconds and joules, the median over epochs of a batch's time."""
    energies = [each["energy_j"] for each in records if "energy_j" in each]
    peaks = [each["peak_bytes"] for each in records if "peak_bytes" in each]
    return TrainingCost(
        stage=step.stage,
        device=device.type,
        params=sum(each.numel() for each in module.parameters()),
        batch_size=step.batch_size,
        epochs=len(records),
        seconds=sum(each["seconds"] for each in records),
        batch_ms=median(each["batch_ms"] for each in records) if records else None,
        peak_bytes=int(max(peaks)) if peaks else None,
        energy_j=sum(energies) if energies and len(energies) == len(records) else None,
    )


def _nothing() -> None:
    return None


def _peak(module: nn.Module, device: torch.device) -> Callable[[], int | None]:
    match device.type:
        case "cuda":
            return _on_gpu(device)
        case "cpu":
            return _in_process(module)
        case _:
            return _nothing


def _on_gpu(device: torch.device) -> Callable[[], int | None]:
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    return lambda: torch.cuda.max_memory_allocated(device) - before


def _in_process(module: nn.Module) -> Callable[[], int | None]:
    """What the process has grown by at its peak, plus `module`'s weights, which it held before.

    Only memory without a file behind it counts: code that is used for the first time and shared images are no part.
    """
    gc.collect()
    return_freed_memory()
    try:
        (PROCESS / "clear_refs").write_text(RESET_PEAK)
        before = _kilobytes("RssAnon")
    except (OSError, KeyError):  # not Linux, or a container that forbids it
        return _nothing
    held = sum(each.nbytes for each in (*module.parameters(), *module.buffers()))
    return lambda: held + 1024 * max(_kilobytes("VmHWM", "RssFile", "RssShmem") - before, 0)


def _kilobytes(first: str, *less: str) -> int:
    """Of this process, what /proc says of `first`, less the others. Raises OSError, KeyError."""
    said = dict(re.findall(r"^(\w+):\s+(\d+) kB$", (PROCESS / "status").read_text(), re.MULTILINE))
    return int(said[first]) - sum(int(said[each]) for each in less)
