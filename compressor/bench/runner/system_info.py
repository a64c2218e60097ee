"""Facts about the device that influence latency: its hardware, settings, load and throttling."""

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
NVIDIA_QUERY = "name,driver_version,pstate,clocks.sm,clocks.mem,power.limit,clocks_throttle_reasons.active"
NOT_THROTTLED = 0x3  # throttle reasons that do not count: idle, and clocks set by the user


def read_text_file(path: str) -> str:
    """The text of a kernel file; empty if it does not exist."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def read_numbers(pattern: str) -> list[int]:
    """The integers in all files that match a glob pattern."""
    return [int(text) for text in map(read_text_file, sorted(glob.glob(pattern))) if text.isdigit()]


def run_tool(*command: str) -> str:
    """The output of a command; empty if it does not exist, fails or hangs."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return process.stdout.decode(errors="replace").strip() if process.returncode == 0 else ""


def cpu_model() -> str:
    """The name of the processor or board."""
    for line in read_text_file(PROC + "/cpuinfo").splitlines():
        if line.lower().startswith(("model name", "hardware")):
            return line.split(":", 1)[1].strip()
    board = read_text_file(SYS + "/firmware/devicetree/base/model").strip("\0")
    return board or platform.processor() or platform.machine()


def usable_cpus() -> list[int]:
    """CPUs that this process may run on, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpu_limit() -> float | None:
    """The number of CPUs that the control groups of this process grant it; None without a limit.

    A group's limit counts for all groups inside it. In a container, the path of its group may be that of the host,
    which does not exist inside: the root of the mounted hierarchy is then the container's own group.
    """
    limits = []
    for line in read_text_file(PROC + "/self/cgroup").splitlines() or ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for root in {"", *controllers.split(","), controllers}:
            parts = [part for part in path.split("/") if part]
            for depth in range(len(parts) + 1):
                limits.append(_group_limit("/".join([SYS + "/fs/cgroup", *filter(None, [root]), *parts[:depth]])))
    return min((limit for limit in limits if limit is not None), default=None)


def _group_limit(folder: str) -> float | None:
    """The limit of one control group, of version 2 or 1, in CPUs."""
    quota, _, period = read_text_file(folder + "/cpu.max").partition(" ")
    if not period:
        quota, period = (read_text_file(f"{folder}/cpu.cfs_{name}_us") for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def cpu_quota() -> str:
    """The CPU limit of the control group, in words; empty without one."""
    limit = cpu_limit()
    return "" if limit is None else f"{limit:g} CPUs"


def usable_cpu_count() -> int:
    """How many threads can run at once: the CPUs of this process's affinity, or fewer if its control group says so."""
    limit = cpu_limit()
    return min(len(usable_cpus()), max(1, int(limit)) if limit else len(usable_cpus()))


def jiffies() -> dict[str, tuple[int, int, int]]:
    """Idle, steal and total time since boot, for all CPUs together (`cpu`) and for each (`cpu0`, ...)."""
    times = {}
    for line in read_text_file(PROC + "/stat").splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and len(fields) >= 8:
            values = [int(field) for field in fields[:8]]  # later fields (guest time) are included in the first two
            times[name] = (values[3] + values[4], values[7], sum(values))
    return times


def quietest_cpus(count: int, seconds: float = 0.2) -> list[int]:
    """Find the CPUs with the most idle time.

    Args:
        count: Number of CPUs.
        seconds: How long they are observed.

    Returns:
        Their numbers, sorted; empty where a process cannot be pinned.

    Raises:
        WorkerError: Fewer CPUs are usable.
    """
    usable = usable_cpus()
    if count > len(usable):
        raise WorkerError("threads", f"{count} threads were requested, but the device has {len(usable)} usable CPUs")
    if not hasattr(os, "sched_setaffinity"):
        return []
    before = jiffies()
    time.sleep(seconds)
    after = jiffies()
    idle = {name: after[name][0] - before[name][0] for name in after if name in before}
    return sorted(sorted(usable, key=lambda cpu: -idle.get(f"cpu{cpu}", 0))[:count])


def mhz(cpus: list[int]) -> float | None:
    """Mean frequency of these CPUs now; None if the kernel does not report it."""
    texts = [read_text_file(f"{SYS}/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq") for cpu in cpus]
    clocks = [int(kilohertz) / 1000 for kilohertz in texts if kilohertz.isdigit()]
    return sum(clocks) / len(clocks) if clocks else None


def throttled() -> int | None:
    """Number of throttling events by heat or power since boot; None if nothing counts them."""
    counts = read_numbers(SYS + "/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count")
    slowed = int(limits, 16) & ~NOT_THROTTLED if (limits := nvidia().get("throttle", "")).startswith("0x") else 0
    thermal = run_tool("dumpsys", "thermalservice").partition("Thermal Status: ")[2][:1]  # Android
    if not counts and not limits and not thermal:
        return None
    return sum(counts) + bool(slowed) + int(thermal or 0)


def nvidia() -> dict[str, str]:
    """Facts about the first NVIDIA GPU; empty without one."""
    output = run_tool("nvidia-smi", "--query-gpu=" + NVIDIA_QUERY, "--format=csv,noheader")
    names = ("gpu", "driver", "pstate", "sm_clock", "memory_clock", "power_limit", "throttle")
    return dict(zip(names, (field.strip() for field in output.splitlines()[0].split(",")))) if output else {}


def load_state() -> dict[str, Any]:
    """What may change during a measurement."""
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
    """Describe the device: its facts, its present state, and the CPUs to measure on unless the request names them."""
    import onnxruntime

    cpus = request["cpus"] or quietest_cpus(request["threads"])
    on_mains = read_numbers(SYS + "/class/power_supply/A*/online")
    facts = {
        "cpu": cpu_model(),
        "cpus": f"pinned to {' '.join(map(str, cpus))}" if cpus else "not pinned",
        "cpu_quota": cpu_quota(),
        "governor": read_text_file(f"{SYS}/devices/system/cpu/cpu{cpus[0] if cpus else 0}/cpufreq/scaling_governor"),
        "boost": read_text_file(SYS + "/devices/system/cpu/cpufreq/boost"),
        "mains": "yes" if any(on_mains) else "no" if on_mains else "",
        "mode": run_tool("nvpmodel", "-q").replace("\n", " "),  # Jetson
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "telemetry": "off" if os.environ.get("ORT_DISABLE_TELEMETRY") == "1" else "on",
    }
    if request["threads"] > 1:
        facts["waiting_threads"] = "spin" if request["threads"] <= usable_cpu_count() else "sleep"
    facts.update({name: value for name, value in nvidia().items() if name != "throttle"})
    return {
        "runtime": "onnxruntime " + onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
        "cpus": cpus,
        "facts": {name: value[:200] for name, value in facts.items() if value},
        "state": load_state(),
    }
