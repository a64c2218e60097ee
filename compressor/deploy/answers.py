"""What a device may answer. It is somebody else's machine: whatever is not exactly this is refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Words = Annotated[str, StringConstraints(max_length=2000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Nanoseconds = Annotated[int, Field(gt=0, lt=10**15)]
Milliseconds = Annotated[float, Field(gt=0, lt=1e9)]
Amount = Annotated[float, Field(ge=0, lt=1e18)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Answer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Failure(Answer):
    """`model`: which of the request's, in the place it has there."""

    kind: Literal[
        "runtime", "provider", "fallback", "load", "input", "run", "output", "threads", "slow", "died", "disk", "device"
    ]
    model: Annotated[int, Field(ge=0, lt=10**6)]
    message: Words


class Failed(Answer):
    failure: Failure


class Stored(Answer):
    """Whether a file is on the device now."""

    there: bool


class State(Answer):
    load: Amount | None
    steal: Count  # jiffies since boot, as `total`
    total: Count
    celsius: Annotated[float, Field(gt=-300, lt=1000)] | None
    throttled: Count | None  # how often heat or power slowed it down, since some moment


class Look(Answer):
    runtime: Name
    providers: Annotated[list[Name], Field(max_length=50)]
    cpus: Annotated[list[Count], Field(max_length=4096)]
    facts: Annotated[dict[Name, Words], Field(max_length=50)]
    state: State


class TimingAnswer(Answer):
    """Of one model: nanoseconds of each run, as [window][run]."""

    session_ms: Milliseconds
    first_run_ms: Milliseconds
    warm: bool
    wall_ns: list[Annotated[list[Nanoseconds], Field(min_length=1)]]
    cpu_ns: list[Annotated[list[Nanoseconds], Field(min_length=1)]]
    energy_j: Amount | None
    output_error: Amount | None

    @model_validator(mode="after")
    def _both_clocks(self) -> TimingAnswer:
        if [len(window) for window in self.wall_ns] != [len(window) for window in self.cpu_ns]:
            raise ValueError("the clocks have counted different runs")
        return self


class Timed(Answer):
    timings: list[TimingAnswer]
    runtime: Name
    providers: Annotated[list[Name], Field(min_length=1, max_length=50)]
    cpus: Annotated[list[Count], Field(max_length=4096)]
    mhz: Annotated[float, Field(ge=0, lt=1e6)] | None
    peak_bytes: Count


class Node(Answer):
    """`us`: microseconds in one run of the model; `bytes`: what it reads and writes."""

    name: Words
    op: Name
    provider: Words
    bytes: Count
    us: Amount


class Profiled(Answer):
    nodes: Annotated[list[Node], Field(max_length=100_000)]
    runs: Annotated[int, Field(ge=1)]
