"""What is said of times measured: in report.json, and by bench with --json."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class LatencyRecord(TypedDict):
    """Milliseconds of one run; `ci95` is the interval of `p50`."""

    p50: float
    p90: float | None
    p99: float | None
    n: int
    ci95: list[float] | None
    cold_start_ms: float | None
    energy_j: NotRequired[float | None]
    peak_bytes: NotRequired[int | None]


class LayerTimeRecord(TypedDict):
    """Microseconds and bytes moved in one run, dense and slim; layers without weights are summed by operator."""

    name: str
    op: str
    before_us: float | None
    after_us: float | None
    before_bytes: int
    after_bytes: int


class SustainedRecord(TypedDict):
    """Median milliseconds at first and at last of a run of `seconds` without a pause."""

    seconds: float
    first_ms: float
    last_ms: float
    percent_per_minute: float


class BenchRecord(TypedDict):
    target: str
    runtime: str | None
    provider: str | None
    threads: int | None
    batch: int | None
    verdict: str
    control: float | None
    control_ci95: list[float] | None
    environment: dict[str, str]


class BenchResult(TypedDict):
    """`compress bench`. `b` and all ratios are None for a single file; ratio = a / b."""

    files: list[str]
    a: LatencyRecord
    b: LatencyRecord | None
    ratio: float | None
    ratio_ci95: list[float] | None
    control: float | None
    control_ci95: list[float] | None
    verdict: str
    stable: bool
    target: str
    runtime: str
    provider: str
    threads: int
    batch: int
    environment: dict[str, str]
    layer_times: list[LayerTimeRecord]
    left_to_win: list[str]
    sustained: SustainedRecord | None


class Samples(TypedDict):
    """Every latency sample in milliseconds."""

    dense: list[float]
    slim: list[float]
