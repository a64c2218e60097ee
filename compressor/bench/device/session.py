"""A session with the runner on a device: sends files, runs jobs, and validates every response."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from compressor.bench.device.connection import CHUNK, Connection, ConnectionLost
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
from compressor.file_digest import sha256

if TYPE_CHECKING:
    from compressor.bench.device.device import Device

RESPONSE_SECONDS = 60.0  # for requests that run no model
MARGIN = 30.0  # s: the device enforces a job's time limit itself, and this side waits a little longer
MAX_MESSAGE = 300  # characters of an error message of the runtime

_Response = TypeVar("_Response", bound=BaseModel)


class RunnerSession:
    """Made by `Device.open`, and valid inside that block."""

    def __init__(self, device: Device, connection: Connection) -> None:
        self.device = device
        self._connection = connection
        self._placed: dict[Path, str] = {}  # path on this machine -> path on the device
        self.cpus: tuple[int, ...] = ()
        self._info = self._system_info()
        self.cpus = tuple(self._info.cpus)

    @property
    def runtime(self) -> str:
        """Name and version of the runtime on the device: `onnxruntime 1.31.1`."""
        return self._info.runtime

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of the execution provider: `CPUExecutionProvider`."""
        return PROVIDERS[self.device.provider]

    @property
    def facts(self) -> Mapping[str, str]:
        """The device's description of itself: processor, pinned CPUs, governor, power mode, system."""
        return self._info.facts

    @property
    def fingerprint(self) -> str:
        """A hash of all that determines latency: processor, runtime, provider, threads, graph level."""
        names = ("cpu", "cpu_quota", "gpu", "power_limit", "mode", "governor")
        hardware = {name: self.facts.get(name) for name in names}
        device = self.device
        usage = [self.provider, device.threads, device.graph, dict(device.options), device.cpu_fallback]
        key = json.dumps([hardware, self.runtime, usage], sort_keys=True)
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    def state(self) -> DeviceState:
        """Load, steal time, temperature and throttling at this moment."""
        return self._system_info().state

    def run(self, job: Job) -> tuple[Timing, ...]:
        """Time the models of a job in one new process on the device, in the order of the job.

        Raises ModelError for a model that cannot be loaded or run, VerificationFailed for an output that is not finite
        or differs from the reference, DeviceUnavailable for a device that is lost, hangs, sends malformed responses or
        lacks the provider, and Temporary for a full disk there.
        """
        request = {
            **self._request("time", job),
            "references": [self._place(path) if path else None for path in job.references],
            "warm_s": job.warm_s,
            "windows": job.windows,
        }
        response = self._ask(request, TimingResponse, job.timeout + MARGIN, job.models)
        windows = {len(timing.wall_ns) for timing in response.timings}
        if len(response.timings) != len(job.models) or windows != {job.windows}:
            raise self._malformed("timings of other models or windows than requested")
        if response.providers[0] != self.provider:
            raise self._malformed(f"{response.providers[0]} executed the model, not {self.provider}")
        if self.cpus and set(response.cpus) != set(self.cpus):
            raise self._malformed(f"the process ran on CPUs {response.cpus}, not on {list(self.cpus)}")
        return tuple(
            Timing(
                wall=_milliseconds(timing.wall_ns),
                cpu=_milliseconds(timing.cpu_ns),
                session_ms=timing.session_ms,
                first_run_ms=timing.first_run_ms,
                warm=timing.warm,
                energy_j=timing.energy_j,
                output_error=timing.output_error,
                peak_bytes=response.peak_bytes,
                mhz=response.mhz,
            )
            for timing in response.timings
        )

    def profile(self, model: Path, job: Job) -> list[NodeTime]:
        """Time every operator of a model.

        Args:
            model: The ONNX file.
            job: Its batch size, inputs and time limit are used; the profile takes as long as a window.

        Returns:
            One record for each operator of the optimized graph, in the order of execution.

        Raises:
            CompressorError: As `run`.
        """
        request = self._request("profile", replace(job, models=(model,)))
        response = self._ask(request, ProfileResponse, job.timeout + MARGIN, (model,))
        return [NodeTime(node.name, node.op, node.provider, node.bytes, node.us) for node in response.nodes]

    def _request(self, do: str, job: Job) -> dict[str, object]:
        device = self.device
        return {
            "do": do,
            "models": [self._place(path) for path in job.models],
            "inputs": self._place(job.inputs) if job.inputs else None,
            "batch": job.batch,
            "threads": device.threads,
            "cpus": list(self.cpus),
            "provider": device.provider,
            "options": dict(device.options),
            "cpu_fallback": device.cpu_fallback,
            "graph": device.graph,
            "window_s": job.window_s,
            "timeout": job.timeout,
        }

    def _system_info(self) -> SystemInfo:
        threads, cpus = self.device.threads, list(self.cpus)
        request = {"do": "system_info", "threads": threads, "cpus": cpus, "timeout": RESPONSE_SECONDS}
        return self._ask(request, SystemInfo, RESPONSE_SECONDS + MARGIN)

    def _place(self, path: Path) -> str:
        """The file's path on the device. The file and its external weights are sent unless the device has them."""
        path = path.resolve()
        if self.device.is_local:
            return str(path)
        if path not in self._placed:
            external = map(str, validate_onnx(path).external) if path.suffix == ".onnx" else ()
            folder = str(len(self._placed))
            for name in (*external, path.name):
                self._send_file(path.parent / name, f"{folder}/{name}")
            self._placed[path] = f"files/{folder}/{path.name}"
        return self._placed[path]

    def _send_file(self, path: Path, name: str) -> None:
        fields = {"name": name, "sha256": sha256(path), "size": path.stat().st_size}
        if self._ask({"do": "copy", **fields}, FileStatus).present:
            return
        with path.open("rb") as file, self._connected():
            self._connection.send_request({"do": "put", **fields})
            while chunk := file.read(CHUNK):
                self._connection.send(chunk)
        self._response(FileStatus, RESPONSE_SECONDS)

    def _ask(
        self,
        request: Mapping[str, object],
        schema: type[_Response],
        seconds: float = RESPONSE_SECONDS,
        models: Sequence[Path] = (),
    ) -> _Response:
        with self._connected():
            self._connection.send_request(request)
        return self._response(schema, seconds, models)

    def _response(self, schema: type[_Response], seconds: float, models: Sequence[Path] = ()) -> _Response:
        """Read a response and validate it. Raises the error that the device reports."""
        with self._connected():
            text = self._connection.read_response(seconds)
        try:
            if text.startswith(b'{"failure"'):
                raise self._device_error(ErrorResponse.model_validate_json(text).failure, models)
            return schema.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise self._malformed(f"{'.'.join(map(str, first['loc']))}: {first['msg']}".strip(": ")) from None

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except ConnectionLost as lost:
            raise self.device.connection_error(lost, self._connection) from lost

    def _malformed(self, problem: str) -> DeviceUnavailable:
        problem, hint = f"the answer is malformed: {problem}", "check which program runs there"
        return DeviceUnavailable("target/garbled-answer", self.device.name, problem, hint)

    def _device_error(self, failure: DeviceError, models: Sequence[Path]) -> CompressorError:
        place, message = f"target {self.device.name}", failure.message
        if len(message) > MAX_MESSAGE:
            message = f"{message[:100]} ... {message[-200:]}"  # the runtime gives its reason at the end
        model = str(models[failure.model]) if failure.model < len(models) else place
        match failure.kind:
            case "load":
                problem, hint = f"ONNX Runtime cannot load it: {message}", "export it again, or check the file"
                return ModelError("onnx-model/not-loadable", model, problem, hint)
            case "run":
                problem = f"ONNX Runtime cannot run it: {message}"
                return ModelError("onnx-model/does-not-run", model, problem, "check its inputs")
            case "input":
                problem = f"no inputs can be generated: {message}"
                hint = "choose another --batch, or correct the model's inputs"
                return ModelError("onnx-model/no-inputs", model, problem, hint)
            case "output":
                hint = "compare the model's outputs on these inputs"
                return VerificationFailed("wrong-output/device-differs", model, f"{message}, on {place}", hint)
            case "threads":
                problem = f"{self.device.threads} threads"
                return RecipeError("bench/threads-refused", "bench.threads", problem, message)
            case "provider":
                hint = "install an ONNX Runtime that has it on the device, or choose another provider in targets.yaml"
                return DeviceUnavailable("provider/not-available", place, message, hint)
            case "fallback":
                hint = "choose another provider in targets.yaml, or set cpu_fallback: true there"
                return DeviceUnavailable("provider/cpu-fallback", place, message, hint)
            case "runtime":
                hint = "install numpy and onnxruntime on the device, or set python in targets.yaml to one that has them"
                return DeviceUnavailable("onnx-runtime/not-installed", place, message, hint)
            case "disk":
                hint = "free space on the device, or set another folder in targets.yaml"
                return Temporary("disk-full/device", place, message, hint)
            case _:
                hint = "free memory on the device and stop other work there, or use a smaller batch"
                return DeviceUnavailable("measurement/failed", ", ".join((place, *map(str, models))), message, hint)


def _milliseconds(windows: Sequence[Sequence[int]]) -> tuple[tuple[float, ...], ...]:
    """[window][run] from nanoseconds."""
    return tuple(tuple(ns / 1e6 for ns in window) for window in windows)
