"""A device that is reached and held: files are placed there, jobs run, answers are checked before they are believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from compressor.bench.device.connection import Connection, ConnectionLost
from compressor.bench.device.protocol import (
    DeviceError,
    DeviceState,
    ErrorResponse,
    FileStatus,
    Job,
    NodeTime,
    ProfileResponse,
    SystemInfo,
    Timing,
    TimingResponse,
)
from compressor.bench.runner.ort_session import PROVIDERS
from compressor.errors import CompressorError, DeviceUnavailable, ModelError, RecipeError, Temporary, VerificationFailed
from compressor.export.onnx_file import validate_onnx

if TYPE_CHECKING:
    from compressor.bench.device.target import DeviceTarget

LOOK_SECONDS = 60.0
MARGIN = 30.0  # s beyond a job's own limit, which the device keeps, before we give up on the device
CHUNK = 1 << 20

_Answer = TypeVar("_Answer", bound=BaseModel)


class Device:
    """Made by `Target.opened`; of no use after that block."""

    def __init__(self, target: DeviceTarget, wire: Connection) -> None:
        self.target = target
        self._wire = wire
        self._placed: dict[Path, str] = {}  # path here -> path there, below the folder of files
        self._first = self._look()
        self.cpus: tuple[int, ...] = tuple(self._first.cpus)

    @property
    def runtime(self) -> str:
        """Name and version of what runs the models there: `onnxruntime 1.31.1`."""
        return self._first.runtime

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of who executes the models: `CPUExecutionProvider`."""
        return PROVIDERS[self.target.provider]

    @property
    def facts(self) -> Mapping[str, str]:
        """What the device says of itself: processor, pinned CPUs, governor, power mode, system."""
        return self._first.facts

    @property
    def fingerprint(self) -> str:
        """One word for all that decides how fast a model is: processor, runtime, provider, threads, graph level."""
        steady = {name: self.facts.get(name) for name in ("cpu", "cpu_quota", "gpu", "power_limit", "mode", "governor")}
        target = self.target
        use = [self.provider, target.threads, target.graph, dict(target.options), target.cpu_fallback]
        key = json.dumps([steady, self.runtime, use], sort_keys=True)
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    def state(self) -> DeviceState:
        """Load, stolen time, temperature and throttling now."""
        return self._look().state

    def run(self, job: Job) -> tuple[Timing, ...]:
        """Time the job's models in one fresh process, each as often as there are windows; in the job's order.

        Raises ModelError for a model that can't be loaded or run, VerificationFailed for NaN or infinity in its
        output or for another output than the reference's, DeviceUnavailable when the device is lost, hangs or
        answers nonsense, or does not have the provider, Temporary for a full disk there.
        """
        request = {
            **self._request("time", job.models, job.batch, job.inputs, job.window_s, job.timeout),
            "references": [self._place(path) for path in job.references],
            "warm_s": job.warm_s,
            "windows": job.windows,
        }
        found = self._ask(request, TimingResponse, job.timeout + MARGIN, job.models)
        shape = {len(timing.wall_ns) for timing in found.timings}
        if len(found.timings) != len(job.models) or shape != {job.windows}:
            raise self._nonsense("timings of other models or windows than were asked for")
        if found.providers[0] != self.provider:
            raise self._nonsense(f"{found.providers[0]} executed the model, not {self.provider}")
        if self.cpus and set(found.cpus) != set(self.cpus):
            raise self._nonsense(f"the process ran on CPUs {found.cpus}, not on {list(self.cpus)}")
        return tuple(
            Timing(
                wall=tuple(tuple(each / 1e6 for each in window) for window in timing.wall_ns),
                cpu=tuple(tuple(each / 1e6 for each in window) for window in timing.cpu_ns),
                session_ms=timing.session_ms,
                first_run_ms=timing.first_run_ms,
                warm=timing.warm,
                energy_j=timing.energy_j,
                output_error=timing.output_error,
                peak_bytes=found.peak_bytes,
                mhz=found.mhz,
            )
            for timing in found.timings
        )

    def profile(self, model: Path, *, batch: int = 1, seconds: float = 1.0, timeout: float = 300.0) -> list[NodeTime]:
        """Time of each operator, in the order they run in. Raises what `run` does."""
        request = self._request("profile", (model,), batch, None, seconds, timeout)
        found = self._ask(request, ProfileResponse, timeout + MARGIN, (model,))
        return [NodeTime(each.name, each.op, each.provider, each.bytes, each.us) for each in found.nodes]

    def _request(
        self, do: str, models: Sequence[Path], batch: int, inputs: Path | None, window_s: float, timeout: float
    ) -> dict[str, object]:
        target = self.target
        return {
            "do": do,
            "models": [self._place(path) for path in models],
            "inputs": self._place(inputs) if inputs else None,
            "batch": batch,
            "threads": target.threads,
            "cpus": list(self.cpus),
            "provider": target.provider,
            "options": dict(target.options),
            "cpu_fallback": target.cpu_fallback,
            "graph": target.graph,
            "window_s": window_s,
            "timeout": timeout,
        }

    def _look(self) -> SystemInfo:
        return self._ask(
            {"do": "look", "threads": self.target.threads, "timeout": LOOK_SECONDS}, SystemInfo, LOOK_SECONDS + MARGIN
        )

    def _place(self, path: Path) -> str:
        """Where the file, with weights outside it, lies on the device; it is sent there if nothing like it is."""
        path = path.resolve()
        if self.target.is_here:
            return str(path)
        if path not in self._placed:
            beside = map(str, validate_onnx(path).external) if path.suffix == ".onnx" else ()
            folder = str(len(self._placed))
            for name in (*beside, path.name):
                self._send(path.parent / name, f"{folder}/{name}")
            self._placed[path] = f"files/{folder}/{path.name}"
        return self._placed[path]

    def _send(self, path: Path, name: str) -> None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            about = {"name": name, "sha256": digest, "size": file.seek(0, 2)}
            if self._ask({"do": "ask", **about}, FileStatus).there:
                return
            file.seek(0)
            with self._connected():
                self._wire.ask({"do": "put", **about})
                while part := file.read(CHUNK):
                    self._wire.send(part)
        self._answer(FileStatus, LOOK_SECONDS)

    def _ask(
        self,
        request: Mapping[str, object],
        kind: type[_Answer],
        seconds: float = LOOK_SECONDS,
        models: Sequence[Path] = (),
    ) -> _Answer:
        with self._connected():
            self._wire.ask(request)
        return self._answer(kind, seconds, models)

    def _answer(self, kind: type[_Answer], seconds: float, models: Sequence[Path] = ()) -> _Answer:
        """The answer, if it is exactly of its kind; the error for what the device says went wrong."""
        with self._connected():
            text = self._wire.answer(seconds)
        try:
            if text.startswith(b'{"failure"'):
                raise self._failure(ErrorResponse.model_validate_json(text).failure, models)
            return kind.model_validate_json(text)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            raise self._nonsense(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}".strip(": ")) from None

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except ConnectionLost as broken:
            raise self.target.explained(broken, self._wire) from broken

    def _nonsense(self, found: str) -> DeviceUnavailable:
        return DeviceUnavailable(
            "target/garbled-answer",
            self.target.name,
            f"the answer is malformed: {found}",
            "check which program runs there",
        )

    def _failure(self, failure: DeviceError, models: Sequence[Path]) -> CompressorError:
        name, found = f"target {self.target.name}", failure.message
        if len(found) > 300:
            found = f"{found[:100]} ... {found[-200:]}"  # the runtime's reason stands at the end
        where = str(models[failure.model]) if failure.model < len(models) else name
        match failure.kind:
            case "load":
                return ModelError(
                    "onnx-model/not-loadable",
                    where,
                    f"ONNX Runtime cannot load it: {found}",
                    "export it again, or check the file",
                )
            case "run":
                return ModelError(
                    "onnx-model/does-not-run", where, f"ONNX Runtime cannot run it: {found}", "check its inputs"
                )
            case "input":
                return ModelError(
                    "onnx-model/no-inputs",
                    where,
                    f"no inputs can be generated: {found}",
                    "choose another --batch, or correct the model's inputs",
                )
            case "output":
                return VerificationFailed(
                    "wrong-output/device-differs",
                    where,
                    f"{found}, on {name}",
                    "compare the model's outputs on these inputs",
                )
            case "threads":
                return RecipeError("bench/threads-refused", "bench.threads", f"{self.target.threads} threads", found)
            case "provider":
                hint = "install an ONNX Runtime that has it on the device, or choose another provider in targets.yaml"
                return DeviceUnavailable("provider/not-available", name, found, hint)
            case "fallback":
                hint = "choose another provider in targets.yaml, or set cpu_fallback: true there"
                return DeviceUnavailable("provider/cpu-fallback", name, found, hint)
            case "runtime":
                hint = "install numpy and onnxruntime on the device, or set python in targets.yaml to one that has them"
                return DeviceUnavailable("onnx-runtime/not-installed", name, found, hint)
            case "disk":
                return Temporary(
                    "disk-full/device", name, found, "free space on the device, or set another folder in targets.yaml"
                )
            case _:
                hint = "free memory on the device and stop other work there, or use a smaller batch"
                return DeviceUnavailable("measurement/failed", ", ".join((name, *map(str, models))), found, hint)
