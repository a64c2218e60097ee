"""Requests to a device and its responses: plain records, the same for every kind of device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Clock = Literal["wall", "cpu"]
"""What a run is timed by: time that passes, or CPU time of the calling thread."""


@dataclass(frozen=True, slots=True)
class Job:
    """ONNX files that one new process times in turn, window by window, so that drift affects all of them alike.

    Each is warmed up for `warm_s` and then until it is stable. A window lasts `window_s` and at least three runs.
    """

    models: tuple[Path, ...]
    window_s: float
    windows: int = 1
    warm_s: float = 0.3
    batch: int = 1
    inputs: Path | None = None  # that `write_timed_inputs` wrote; None = seeded values
    references: tuple[Path | None, ...] = ()  # expected outputs of each model (.npz); None = any finite ones
    timeout: float = 300.0  # s, for all of the job


@dataclass(frozen=True, slots=True)
class Timing:
    """One model of a job: milliseconds of each run by two clocks, as [window][run]."""

    wall: tuple[tuple[float, ...], ...]
    cpu: tuple[tuple[float, ...], ...]  # CPU time of the calling thread; it stops while another process has the CPU
    session_ms: float
    first_run_ms: float
    warm: bool  # False = not stable when the warm-up reached its time limit
    energy_j: float | None = None  # of one run, for the entire package or board; None = no meter
    output_error: float | None = None  # largest relative difference from the reference; None = no reference
    peak_bytes: int = 0  # peak memory above that of an empty process, for all models of the job
    mhz: float | None = None  # of the CPUs at the end; None = the kernel does not report it

    def windows(self, clock: Clock) -> tuple[tuple[float, ...], ...]:
        """The milliseconds by one of the clocks."""
        return self.cpu if clock == "cpu" else self.wall

    @property
    def cpu_share(self) -> float:
        """Share of the CPU that the median run received; a few disturbed runs do not change medians."""
        return median(sum(self.cpu, ())) / median(sum(self.wall, ()))


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One operator of the optimized graph: microseconds of a run, and the bytes it reads and writes."""

    name: str
    op: str
    provider: str
    bytes: int
    us: float


Text = Annotated[str, StringConstraints(max_length=2000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Nanoseconds = Annotated[int, Field(gt=0, lt=10**15)]
Milliseconds = Annotated[float, Field(gt=0, lt=1e9)]
Amount = Annotated[float, Field(ge=0, lt=1e18)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Response(BaseModel):
    """A response is rejected unless it has exactly these fields and types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class DeviceError(Response):
    """An error on the device. `model`: index of the model in the request."""

    kind: Literal[
        "runtime", "provider", "fallback", "load", "input", "run", "output", "threads", "slow", "died", "disk", "device"
    ]
    model: Annotated[int, Field(ge=0, lt=10**6)]
    message: Text


class ErrorResponse(Response):
    failure: DeviceError


class FileStatus(Response):
    """Whether the device has the file."""

    present: bool


class DeviceState(Response):
    load: Amount | None
    steal: Count  # jiffies since boot, like `total`
    total: Count
    celsius: Annotated[float, Field(gt=-300, lt=1000)] | None
    throttled: Count | None  # number of throttling events so far; None = not counted


class SystemInfo(Response):
    runtime: Name
    providers: Annotated[list[Name], Field(max_length=50)]
    cpus: Annotated[list[Count], Field(max_length=4096)]
    facts: Annotated[dict[Name, Text], Field(max_length=50)]
    state: DeviceState


class TimingSamples(Response):
    """One model: nanoseconds of each run, as [window][run]."""

    session_ms: Milliseconds
    first_run_ms: Milliseconds
    warm: bool
    wall_ns: list[Annotated[list[Nanoseconds], Field(min_length=1)]]
    cpu_ns: list[Annotated[list[Nanoseconds], Field(min_length=1)]]
    energy_j: Amount | None
    output_error: Amount | None

    @model_validator(mode="after")
    def _both_clocks(self) -> TimingSamples:
        if [len(window) for window in self.wall_ns] != [len(window) for window in self.cpu_ns]:
            raise ValueError("wall_ns and cpu_ns differ in the number of runs")
        return self


class TimingResponse(Response):
    timings: list[TimingSamples]
    runtime: Name
    providers: Annotated[list[Name], Field(min_length=1, max_length=50)]
    cpus: Annotated[list[Count], Field(max_length=4096)]
    mhz: Annotated[float, Field(ge=0, lt=1e6)] | None
    peak_bytes: Count


class ProfiledNode(Response):
    """`us`: microseconds of one run of the model; `bytes`: what it reads and writes."""

    name: Text
    op: Name
    provider: Text
    bytes: Count
    us: Amount


class ProfileResponse(Response):
    nodes: Annotated[list[ProfiledNode], Field(max_length=100_000)]
    runs: Annotated[int, Field(ge=1)]
