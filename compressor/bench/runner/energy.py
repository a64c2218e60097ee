"""Energy meters: the package counters of Intel and AMD (RAPL) and the board counter of NVIDIA (NVML)."""

from __future__ import annotations

import ctypes
import glob

from .system_info import SYS, read_text_file


def energy_joules() -> float | None:
    """Joules used by all metered packages and boards since some moment; None without a meter.

    Only differences have a meaning. They include whatever else ran on these packages and boards.
    """
    joules = meter_readings().values()
    return sum(joules) if joules else None


def meter_readings() -> dict[str, float]:
    """Joules by meter."""
    readings = {"RAPL": read_rapl(), "NVML": read_nvml()}
    return {name: joules for name, joules in readings.items() if joules is not None}


def meter_unavailable_reason() -> str:
    """Why `meter_readings` is empty, in words."""
    counters = glob.glob(SYS + "/class/powercap/intel-rapl:*/energy_uj")
    processor = "RAPL counters are readable by root only" if counters else "no RAPL counter in /sys/class/powercap"
    return processor + ", and no NVIDIA board with an energy counter"


def read_rapl() -> float | None:
    """Joules of all packages. Zones below a package (cores, memory) are part of its sum. Most systems require root."""
    packages = [path for path in glob.glob(SYS + "/class/powercap/intel-rapl:*") if path.count(":") == 1]
    counters = [text for text in (read_text_file(path + "/energy_uj") for path in packages) if text.isdigit()]
    return sum(map(int, counters)) / 1e6 if counters else None


def read_nvml() -> float | None:
    """Joules of all NVIDIA boards: which of them the runtime uses is not known."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if library.nvmlInit_v2() != 0:
        return None
    try:
        count = ctypes.c_uint()
        library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        boards = (_board_joules(library, index) for index in range(count.value))
        joules = [value for value in boards if value is not None]
        return sum(joules) if joules else None
    finally:
        library.nvmlShutdown()


def _board_joules(library: ctypes.CDLL, index: int) -> float | None:
    """Joules of one NVIDIA board; None if it has no counter."""
    board, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(board)) != 0:
        return None
    status = library.nvmlDeviceGetTotalEnergyConsumption(board, ctypes.byref(millijoules))
    return millijoules.value / 1e3 if status == 0 else None
