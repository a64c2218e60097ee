"""What else could explain a time: the machine, and what it was doing while we measured."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.errors import RecipeError

PROC, SYS = Path("/proc"), Path("/sys")


def read(path: Path) -> str:
    """A kernel file's text, or nothing where there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def cpu_model() -> str:
    for line in read(PROC / "cpuinfo").splitlines():
        if line.lower().startswith(("model name", "hardware")):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def usable_cpus() -> list[int]:
    """CPUs this process may run on, which is not what the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpu_quota() -> str:
    """The control group's limit in CPUs, or nothing."""
    quota, _, period = read(SYS / "fs/cgroup/cpu.max").partition(" ")
    if not period:
        quota = read(SYS / "fs/cgroup/cpu/cpu.cfs_quota_us")
        period = read(SYS / "fs/cgroup/cpu/cpu.cfs_period_us")
    return f"{int(quota) / int(period):g} CPUs" if quota.isdigit() and period.isdigit() else ""


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Jiffies since boot of one CPU, or of all of them together."""

    idle: int
    steal: int
    total: int


def cpu_times() -> dict[str, CpuTimes]:
    """`cpu` for the whole machine, `cpu0` ... for each."""
    times = {}
    for line in read(PROC / "stat").splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and len(fields) >= 8:
            values = [int(field) for field in fields[:8]]  # later ones are counted in the first already
            times[name] = CpuTimes(values[3] + values[4], values[7], sum(values))
    return times


def quietest_cpus(count: int, *, look: float = 0.2) -> list[int]:
    """The `count` usable CPUs that were idle most over `look` seconds; nothing where pinning isn't possible.

    Raises RecipeError when there are not that many.
    """
    usable = usable_cpus()
    if count > len(usable):
        raise RecipeError(
            "threads", "bench.threads", str(count), f"at most {len(usable)}, the CPUs this process may use"
        )
    if not hasattr(os, "sched_setaffinity"):
        return []
    before = cpu_times()
    time.sleep(look)
    after = cpu_times()
    idle = {name: after[name].idle - before[name].idle for name in after.keys() & before.keys()}
    return sorted(sorted(usable, key=lambda cpu: -idle.get(f"cpu{cpu}", 0))[:count])


@dataclass(frozen=True, slots=True)
class Snapshot:
    load: str
    mhz: str
    all: CpuTimes | None


def snapshot(cpus: Sequence[int]) -> Snapshot:
    try:
        load = f"{os.getloadavg()[0]:.2f}"
    except OSError:
        load = ""
    frequencies = [read(SYS / f"devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq") for cpu in cpus]
    mhz = " ".join(f"{int(each) / 1000:.0f}" for each in frequencies if each.isdigit())
    return Snapshot(load, mhz, cpu_times().get("cpu"))


def describe(before: Snapshot, after: Snapshot, cpus: Sequence[int]) -> dict[str, str]:
    """The fingerprint that goes into the report; what can't be read here is left out."""
    facts = {
        "cpu": cpu_model(),
        "cpus": " ".join(map(str, cpus)) or "not pinned",
        "cpu_quota": cpu_quota(),
        "governor": read(SYS / f"devices/system/cpu/cpu{cpus[0] if cpus else 0}/cpufreq/scaling_governor"),
        "mhz_before": before.mhz,
        "mhz_after": after.mhz,
        "load_before": before.load,
        "load_after": after.load,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "telemetry": "off",
    }
    if before.all and after.all and after.all.total > before.all.total:
        facts["steal"] = f"{(after.all.steal - before.all.steal) / (after.all.total - before.all.total):.2%}"
    return {name: value for name, value in facts.items() if value}
