"""What a device is asked to time, and what it answers: plain records, the same for every kind of device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator


@dataclass(frozen=True, slots=True)
class Job:
    """ONNX files that one fresh process on the device times in turn, window by window, so drift meets all alike.

    Each is warmed up for `warm_s` and then until it is stable; a window lasts `window_s` and at least five runs.
    """

    models: tuple[Path, ...]
    window_s: float
    windows: int = 1
    warm_s: float = 0.3
    batch: int = 1
    inputs: Path | None = None  # .npy of real inputs (n, ...) for the first input; None = seeded normal
    references: tuple[Path, ...] = ()  # of each model, what its outputs must be (see reference.py); empty = finite
    timeout: float = 300.0  # s, for the whole job


@dataclass(frozen=True, slots=True)
class Timing:
    """One model of a job: milliseconds of each run by two clocks, as [window][run]."""

    wall: tuple[tuple[float, ...], ...]
    cpu: tuple[tuple[float, ...], ...]  # CPU time of the calling thread, which stands still while others have its CPU
    session_ms: float
    first_run_ms: float
    warm: bool  # False = still drifting when the warm-up's limit was reached
    energy_j: float | None = None  # of one run, by the meters of the whole package or board; None = no meter
    output_error: float | None = None  # largest difference from the reference, relative; None = no reference
    peak_bytes: int = 0  # memory of the process at its most, above that of an empty one; of all the job's models
    mhz: float | None = None  # of the CPUs at the end, where the kernel tells

    @property
    def cpu_share(self) -> float:
        """Share of its CPU that the typical run had; a few disturbed runs leave the medians as they are."""
        return median(sum(self.cpu, ())) / median(sum(self.wall, ()))


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One operator of the optimised graph: microseconds in a run, and the bytes it reads and writes."""

    name: str
    op: str
    provider: str
    bytes: int
    us: float


Words = Annotated[str, StringConstraints(max_length=2000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Nanoseconds = Annotated[int, Field(gt=0, lt=10**15)]
Milliseconds = Annotated[float, Field(gt=0, lt=1e9)]
Amount = Annotated[float, Field(ge=0, lt=1e18)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Response(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class DeviceError(Response):
    """`model`: which of the request's, in the place it has there."""

    kind: Literal[
        "runtime", "provider", "fallback", "load", "input", "run", "output", "threads", "slow", "died", "disk", "device"
    ]
    model: Annotated[int, Field(ge=0, lt=10**6)]
    message: Words


class ErrorResponse(Response):
    failure: DeviceError


class FileStatus(Response):
    """Whether a file is on the device now."""

    there: bool


class DeviceState(Response):
    load: Amount | None
    steal: Count  # jiffies since boot, as `total`
    total: Count
    celsius: Annotated[float, Field(gt=-300, lt=1000)] | None
    throttled: Count | None  # how often heat or power slowed it down, since some moment


class SystemInfo(Response):
    runtime: Name
    providers: Annotated[list[Name], Field(max_length=50)]
    cpus: Annotated[list[Count], Field(max_length=4096)]
    facts: Annotated[dict[Name, Words], Field(max_length=50)]
    state: DeviceState


class TimingSamples(Response):
    """Of one model: nanoseconds of each run, as [window][run]."""

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
            raise ValueError("the clocks have counted different runs")
        return self


class TimingResponse(Response):
    timings: list[TimingSamples]
    runtime: Name
    providers: Annotated[list[Name], Field(min_length=1, max_length=50)]
    cpus: Annotated[list[Count], Field(max_length=4096)]
    mhz: Annotated[float, Field(ge=0, lt=1e6)] | None
    peak_bytes: Count


class ProfiledNode(Response):
    """`us`: microseconds in one run of the model; `bytes`: what it reads and writes."""

    name: Words
    op: Name
    provider: Words
    bytes: Count
    us: Amount


class ProfileResponse(Response):
    nodes: Annotated[list[ProfiledNode], Field(max_length=100_000)]
    runs: Annotated[int, Field(ge=1)]
