"""What a measurement was made under, in words for the report, and whether the device slowed itself down meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressor.bench.device.protocol import DeviceState, Timing
from compressor.bench.device.session import Device

DRIFT = 0.05  # of the clock, from the slowest block to the fastest, that is worth a word


@dataclass(frozen=True, slots=True)
class MeasurementConditions:
    facts: Mapping[str, str]
    throttled: str = ""  # how the device slowed itself down


def describe_conditions(
    device: Device, before: DeviceState, after: DeviceState, blocks: Sequence[Timing]
) -> MeasurementConditions:
    """The fingerprint that goes into the report; what the device can't tell is left out."""
    target = device.target
    clocks = [block.mhz for block in blocks if block.mhz]
    facts = {
        **device.facts,
        "power": target.power,
        "graph": f"optimised: {target.graph}",
        "provider_options": ", ".join(f"{name}={value}" for name, value in target.options.items()),
        "cpu_fallback": "allowed" if target.cpu_fallback else "",
        "mhz": _span(clocks),
        "clock_drift": f"{max(clocks) / min(clocks) - 1:.0%}"
        if clocks and max(clocks) > (1 + DRIFT) * min(clocks)
        else "",
        "celsius": _span([each for each in (before.celsius, after.celsius) if each is not None]),
        "load_before": "" if before.load is None else f"{before.load:.2f}",
        "load_after": "" if after.load is None else f"{after.load:.2f}",
        "throttled": _times(before, after),
        "lowest_cpu_share": f"{min(block.cpu_share for block in blocks):.2f}",
        "energy": "metered" if any(block.energy_j is not None for block in blocks) else "no meter that can be read",
    }
    if after.total > before.total:
        facts["steal"] = f"{(after.steal - before.steal) / (after.total - before.total):.2%}"
    slowed = (after.throttled or 0) > (before.throttled or 0)
    words = "heat or power slowed the device down while it was measured" if slowed else ""
    return MeasurementConditions({name: value for name, value in facts.items() if value}, words)


def _times(before: DeviceState, after: DeviceState) -> str:
    if before.throttled is None or after.throttled is None:
        return ""
    return f"{after.throttled - before.throttled} times" if after.throttled > before.throttled else "no"


def _span(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"
