"""The cost of a training: time of its batches, peak memory and energy, measured without extra passes."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import nn

from compressor.core import TrainingCost
from compressor.tensors import named_tensors
from compressor.training.train_settings import TrainSettings
from compressor.training.training_memory import return_freed_memory

PROCESS = Path("/proc/self")
RESET_PEAK = "5"  # proc_pid_clear_refs(5)

Joules = Callable[[], float | None]
"""joules used since a fixed time by the metered parts of this machine; None = there is no meter"""


def no_energy_meter() -> None:
    """Return None: no energy is measured."""


class CostMeter:
    """Meters this process or its GPU from its creation on. It is read once per epoch and adds nothing to a batch."""

    def __init__(self, module: nn.Module, device: torch.device, joules: Joules) -> None:
        self._joules, self._read = joules, joules()
        self._peak = _peak(module, device)

    def begin(self) -> None:
        """Start to count energy."""
        self._read = self._joules()

    def energy(self) -> float | None:
        """Return the joules since the last call or `begin`; None if there is no meter or it was reset."""
        before, self._read = self._read, self._joules()
        return self._read - before if before is not None and self._read is not None and self._read >= before else None

    def first_peak(self) -> dict[str, float]:
        """Return `peak_bytes` at the first call only, because later peaks include evaluations."""
        peak, self._peak = self._peak(), _no_peak
        return {} if peak is None else {"peak_bytes": peak}


def training_cost(
    settings: TrainSettings, module: nn.Module, device: torch.device, records: Sequence[Mapping[str, float]]
) -> TrainingCost:
    """Sum up the cost of a training.

    Args:
        settings: Its settings.
        module: The trained network.
        device: The device.
        records: One record per epoch.

    Returns:
        Total seconds and joules, and the median over epochs of the time per batch.
    """
    energies = [record["energy_j"] for record in records if "energy_j" in record]
    peaks = [record["peak_bytes"] for record in records if "peak_bytes" in record]
    return TrainingCost(
        stage=settings.stage,
        device=device.type,
        params=sum(parameter.numel() for parameter in module.parameters()),
        batch_size=settings.batch_size,
        epochs=len(records),
        seconds=sum(record["seconds"] for record in records),
        batch_ms=median(record["batch_ms"] for record in records) if records else None,
        peak_bytes=int(max(peaks)) if peaks else None,
        energy_j=sum(energies) if energies and len(energies) == len(records) else None,
    )


def _no_peak() -> None:
    return None


def _peak(module: nn.Module, device: torch.device) -> Callable[[], int | None]:
    match device.type:
        case "cuda":
            return _on_gpu(device)
        case "cpu":
            return _in_process(module)
        case _:
            return _no_peak


def _on_gpu(device: torch.device) -> Callable[[], int | None]:
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    return lambda: torch.cuda.max_memory_allocated(device) - before


def _in_process(module: nn.Module) -> Callable[[], int | None]:
    """Meter the growth of this process, plus the weights of `module`, which it held before.

    Memory that is backed by files does not count, such as code that is loaded and shared images.
    """
    gc.collect()
    return_freed_memory()
    try:
        (PROCESS / "clear_refs").write_text(RESET_PEAK)
        before = _kilobytes("RssAnon")
    except (OSError, KeyError):  # not Linux, or a container that forbids it
        return _no_peak
    weights = sum(tensor.nbytes for tensor in named_tensors(module).values())
    return lambda: weights + 1024 * max(_kilobytes("VmHWM", "RssFile", "RssShmem") - before, 0)


def _kilobytes(first: str, *less: str) -> int:
    """Read a field of this process's status in /proc, minus other fields. Raises OSError or KeyError."""
    status = dict(re.findall(r"^(\w+):\s+(\d+) kB$", (PROCESS / "status").read_text(), re.MULTILINE))
    return int(status[first]) - sum(int(status[name]) for name in less)
