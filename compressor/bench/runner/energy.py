"""Energy, where a meter exists: Intel's and AMD's package counters (RAPL), NVIDIA's board counter (NVML)."""

from __future__ import annotations

import ctypes
import glob

from .system_info import SYS, read_first_line


def energy_joules() -> float | None:
    """Energy used since some moment by all meters that can be read here; None where there is none.

    Whole packages and boards are counted, with whatever else they do. Only differences mean something.
    """
    found = meter_readings().values()
    return sum(found) if found else None


def meter_readings() -> dict[str, float]:
    """The same, meter by meter."""
    found = {"RAPL": read_rapl(), "NVML": read_nvml()}
    return {name: value for name, value in found.items() if value is not None}


def meter_unavailable_reason() -> str:
    """In words, where there is no reading."""
    counters = glob.glob(SYS + "/class/powercap/intel-rapl:*/energy_uj")
    processor = "RAPL counters are for root to read" if counters else "no RAPL counter in /sys/class/powercap"
    return processor + ", and no NVIDIA board that tells"


def read_rapl() -> float | None:
    """Packages only: cores and memory below them are parts of the same sum. Readable by root on most systems."""
    found = [
        read_first_line(path + "/energy_uj")
        for path in glob.glob(SYS + "/class/powercap/intel-rapl:*")
        if path.count(":") == 1
    ]
    return sum(int(each) for each in found if each.isdigit()) / 1e6 if any(map(str.isdigit, found)) else None


def read_nvml() -> float | None:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if library.nvmlInit_v2() != 0:
        return None
    try:
        device, energy = ctypes.c_void_p(), ctypes.c_ulonglong()
        if library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)) != 0:
            return None
        answer = library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(energy))
        return energy.value / 1e3 if answer == 0 else None
    finally:
        library.nvmlShutdown()
