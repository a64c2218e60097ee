"""The conditions of a measurement: which clock counts, facts for the report, and whether the device throttled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressor.bench.device.protocol import Clock, DeviceState, Timing
from compressor.bench.device.session import RunnerSession

MIN_CPU_SHARE = 0.97  # of its CPU that every block must have received for wall time to be used
CLOCK_DRIFT = 0.05  # of the CPU's frequency, from the slowest block to the fastest, that is reported


@dataclass(frozen=True, slots=True)
class MeasurementConditions:
    """`disturbance` and `throttled` are reasons in words; empty = there was none."""

    clock: Clock
    disturbance: str
    throttled: str
    facts: Mapping[str, str]


def describe_conditions(
    session: RunnerSession, before: DeviceState, after: DeviceState, blocks: Sequence[Timing]
) -> MeasurementConditions:
    """Describe the conditions of a measurement.

    Args:
        session: The device.
        before: The device's state before the first block.
        after: Its state after the last block.
        blocks: The timings.

    Returns:
        The conditions; facts that the device does not report are left out.
    """
    device = session.device
    clock, disturbance = choose_clock(session, blocks)
    frequencies = [block.mhz for block in blocks if block.mhz]
    drift = max(frequencies) / min(frequencies) - 1 if frequencies else 0.0
    has_throttled = (after.throttled or 0) > (before.throttled or 0)
    facts = {
        **session.facts,
        "power": device.power,
        "graph": f"optimised: {device.graph}",
        "provider_options": ", ".join(f"{name}={value}" for name, value in device.options.items()),
        "cpu_fallback": "allowed" if device.cpu_fallback else "",
        "mhz": _span(frequencies),
        "clock_drift": f"{drift:.0%}" if drift > CLOCK_DRIFT else "",
        "celsius": _span([state.celsius for state in (before, after) if state.celsius is not None]),
        "load_before": "" if before.load is None else f"{before.load:.2f}",
        "load_after": "" if after.load is None else f"{after.load:.2f}",
        "throttled": _throttling(before, after),
        "lowest_cpu_share": f"{min(block.cpu_share for block in blocks):.2f}",
        "energy": "metered" if any(block.energy_j is not None for block in blocks) else "no meter that can be read",
        "clock": f"CPU time, for {disturbance}" if clock == "cpu" else "wall",
        "warm": f"{sum(block.warm for block in blocks)} of {len(blocks)} blocks",
        "outputs": _output_errors(blocks),
    }
    if after.total > before.total:
        facts["steal"] = f"{(after.steal - before.steal) / (after.total - before.total):.2%}"
    return MeasurementConditions(
        clock,
        disturbance,
        "heat or power slowed the device down while it was measured" if has_throttled else "",
        {name: value for name, value in facts.items() if value},
    )


def choose_clock(session: RunnerSession, blocks: Sequence[Timing]) -> tuple[Clock, str]:
    """Choose between wall time and CPU time.

    CPU time is used if other processes took the CPU from a model in one thread. It means nothing for several threads
    or an accelerator, for which the calling thread waits.

    Args:
        session: The device.
        blocks: The timings.

    Returns:
        The clock, and the reason for CPU time in words.
    """
    lowest = min(block.cpu_share for block in blocks)
    if not session.device.single_threaded_cpu or lowest >= MIN_CPU_SHARE:
        return "wall", ""
    return "cpu", f"other processes took up to {1 - lowest:.0%} of the CPU"


def _output_errors(blocks: Sequence[Timing]) -> str:
    errors = [block.output_error for block in blocks if block.output_error is not None]
    if not errors:
        return "finite in every block"
    unchecked = len(blocks) - len(errors)
    rest = f", finite in the other {unchecked}" if unchecked else ""
    return f"this CPU's to {max(errors):.0e} in {len(errors)} of {len(blocks)} blocks{rest}"


def _throttling(before: DeviceState, after: DeviceState) -> str:
    if before.throttled is None or after.throttled is None:
        return ""
    return f"{after.throttled - before.throttled} times" if after.throttled > before.throttled else "no"


def _span(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"
