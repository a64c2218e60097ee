"""What else could explain a time: the machine, and what it was doing while we measured."""

from __future__ import annotations

import glob
import os
import platform
import shutil
import subprocess
import time
from typing import Any

from .worker import WorkerError

PROC, SYS = "/proc", "/sys"
NVIDIA = "name,driver_version,pstate,clocks.sm,clocks.mem,power.limit,clocks_throttle_reasons.active"
HARMLESS = 0x3  # throttle reasons that are none: idle, and clocks set by the user


def read_first_line(path: str) -> str:
    """A kernel file's text, or nothing where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def read_numbers(pattern: str) -> list[int]:
    return [int(text) for text in map(read_first_line, sorted(glob.glob(pattern))) if text.isdigit()]


def run_tool(*command: str) -> str:
    """What a tool of the device says, where it is there and answers at once."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def cpu_model() -> str:
    for line in read_first_line(PROC + "/cpuinfo").splitlines():
        if line.lower().startswith(("model name", "hardware")):
            return line.split(":", 1)[1].strip()
    board = read_first_line(SYS + "/firmware/devicetree/base/model").strip("\0")
    return board or platform.processor() or platform.machine()


def usable_cpus() -> list[int]:
    """CPUs this process may run on, which is not what the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpu_quota() -> str:
    """The control group's limit in CPUs, or nothing."""
    quota, _, period = read_first_line(SYS + "/fs/cgroup/cpu.max").partition(" ")
    if not period:
        quota = read_first_line(SYS + "/fs/cgroup/cpu/cpu.cfs_quota_us")
        period = read_first_line(SYS + "/fs/cgroup/cpu/cpu.cfs_period_us")
    return f"{int(quota) / int(period):g} CPUs" if quota.isdigit() and period.isdigit() else ""


def jiffies() -> dict[str, tuple[int, int, int]]:
    """idle, steal and total since boot: `cpu` for the whole machine, `cpu0` ... for each."""
    times = {}
    for line in read_first_line(PROC + "/stat").splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and len(fields) >= 8:
            values = [int(field) for field in fields[:8]]  # later ones are counted in the first already
            times[name] = (values[3] + values[4], values[7], sum(values))
    return times


def quietest_cpus(count: int, system_info: float = 0.2) -> list[int]:
    """The `count` usable CPUs that were idle most over `system_info` seconds; nothing where pinning isn't possible."""
    usable = usable_cpus()
    if count > len(usable):
        raise WorkerError("threads", f"at most {len(usable)}, the CPUs that may be used there")
    if not hasattr(os, "sched_setaffinity"):
        return []
    before = jiffies()
    time.sleep(system_info)
    after = jiffies()
    idle = {name: after[name][0] - before[name][0] for name in after if name in before}
    return sorted(sorted(usable, key=lambda cpu: -idle.get(f"cpu{cpu}", 0))[:count])


def mhz(cpus: list[int]) -> float | None:
    """Mean frequency of these CPUs now, where the kernel tells."""
    found = [read_first_line(f"{SYS}/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq") for cpu in cpus]
    clocks = [int(each) / 1000 for each in found if each.isdigit()]
    return sum(clocks) / len(clocks) if clocks else None


def throttled() -> int | None:
    """How often heat or power has slowed the processors down since boot; None where nothing counts it."""
    counts = read_numbers(SYS + "/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count")
    slowed = int(limits, 16) & ~HARMLESS if (limits := nvidia().get("throttle", "")).startswith("0x") else 0
    thermal = run_tool("dumpsys", "thermalservice").partition("Thermal Status: ")[2][:1]  # Android
    if not counts and not limits and not thermal:
        return None
    return sum(counts) + bool(slowed) + int(thermal or 0)


def nvidia() -> dict[str, str]:
    said = run_tool("nvidia-smi", "--query-gpu=" + NVIDIA, "--format=csv,noheader")
    names = ("gpu", "driver", "pstate", "sm_clock", "memory_clock", "power_limit", "throttle")
    return dict(zip(names, (each.strip() for each in said.splitlines()[0].split(",")))) if said else {}


def load_state() -> dict[str, Any]:
    """What changes while we measure."""
    _, steal, total = jiffies().get("cpu", (0, 0, 0))
    temperatures = read_numbers(SYS + "/class/thermal/thermal_zone*/temp")
    try:
        load: float | None = os.getloadavg()[0]
    except OSError:
        load = None
    return {
        "load": load,
        "steal": steal,
        "total": total,
        "celsius": max(temperatures) / 1000 if temperatures else None,
        "throttled": throttled(),
    }


def system_info(request: dict[str, Any]) -> dict[str, Any]:
    """The device as it is now: what stays, what changes, and which CPUs to measure on."""
    import onnxruntime

    cpus = quietest_cpus(request["threads"])
    on_mains = read_numbers(SYS + "/class/power_supply/A*/online")
    facts = {
        "cpu": cpu_model(),
        "cpus": f"pinned to {' '.join(map(str, cpus))}" if cpus else "not pinned",
        "cpu_quota": cpu_quota(),
        "governor": read_first_line(f"{SYS}/devices/system/cpu/cpu{cpus[0] if cpus else 0}/cpufreq/scaling_governor"),
        "boost": read_first_line(SYS + "/devices/system/cpu/cpufreq/boost"),
        "mains": "yes" if any(on_mains) else "no" if on_mains else "",
        "mode": run_tool("nvpmodel", "-q").replace("\n", " "),  # Jetson
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "telemetry": "off" if os.environ.get("ORT_DISABLE_TELEMETRY") == "1" else "on",
    }
    facts.update({name: value for name, value in nvidia().items() if name != "throttle"})
    return {
        "runtime": "onnxruntime " + onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
        "cpus": cpus,
        "facts": {name: value[:200] for name, value in facts.items() if value},
        "state": load_state(),
    }
