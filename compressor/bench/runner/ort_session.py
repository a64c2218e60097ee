"""A model opened for a job: inputs, the session, and proof of who executes it and that it computes the right thing."""

from __future__ import annotations

import json
from time import perf_counter
from typing import Any

import numpy as np

from .worker import WorkerError

PROVIDERS = {  # as targets name them -> as ONNX Runtime does
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "qnn": "QNNExecutionProvider",
}
USUAL_OPTIONS = {"tensorrt": {"trt_sparsity_enable": "1"}}  # weights that keep 2:4 may be run as such; a target decides
GRAPH = {"none": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}
MAX_FEEDS = 8  # different batches that are cycled through
TOLERANCE = {"cpu": 1e-2}  # of an output's largest value; the same arithmetic in another order is far below it
TOLERANCE_ELSEWHERE = 5e-2  # accelerators may compute in half precision

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class LoadedSession:
    """A session with its inputs, after its first run."""

    def __init__(self, path: str, request: dict[str, Any], profile: str | None = None) -> None:
        start = perf_counter()
        self.session = create_session(path, request, profile)
        self.session_ms = (perf_counter() - start) * 1e3
        real = np.load(request["inputs"], allow_pickle=False) if request["inputs"] else None
        count = 1 if real is None else min(MAX_FEEDS, -(-len(real) // request["batch"]))
        nodes = self.session.get_inputs()
        said = self.session.get_modelmeta().custom_metadata_map.get("batch_dims")  # where it is not first everywhere
        dims = json.loads(said) if said else None
        self.feeds = [random_feed(nodes, request["batch"], real, number, dims) for number in range(count)]
        self.runs = 0
        start = perf_counter()
        try:
            self.outputs = self.run()
        except Exception as error:
            free = ", ".join(f"{node.name}: {node.shape}" for node in nodes)
            raise WorkerError("run", f"{error} (inputs {free}; free dimensions were set to 1)") from error
        self.first_run_ms = (perf_counter() - start) * 1e3
        check_finite_outputs(self.outputs)

    def run(self) -> list[Any]:
        outputs: list[Any] = self.session.run(None, self.feeds[self.runs % len(self.feeds)])
        self.runs += 1
        return outputs


def create_session(path: str, request: dict[str, Any], profile: str | None) -> Any:
    """A session whose nodes the asked provider executes, and nobody else unless the target allows it."""
    import onnxruntime as ort

    asked = PROVIDERS[request["provider"]]
    if asked not in ort.get_available_providers():
        there = ", ".join(name for name, full in PROVIDERS.items() if full in ort.get_available_providers())
        raise WorkerError("provider", f"no {asked} in onnxruntime {ort.__version__}; there is {there}")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = request["threads"], 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, "ORT_" + GRAPH[request["graph"]])
    options.log_severity_level = 4
    if asked != PROVIDERS["cpu"] and not request["cpu_fallback"]:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    providers = [(asked, {**USUAL_OPTIONS.get(request["provider"], {}), **request["options"]})]
    if request["provider"] == "tensorrt":
        providers.append((PROVIDERS["cuda"], {}))
    if request["provider"] in ("cuda", "tensorrt") and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    try:
        session = ort.InferenceSession(path, options, providers=providers)
    except Exception as error:
        kind = "fallback" if "fallback" in str(error) else "load"
        raise WorkerError(kind, str(error)) from error
    if session.get_providers()[0] != asked:
        raise WorkerError("provider", f"asked for {asked}, got {', '.join(session.get_providers())}")
    return session


def random_feed(inputs: list[Any], batch: int, real: Any, number: int, dims: list[Any] | None = None) -> dict[str, Any]:
    """One batch for a session's inputs: `real` images in the first where given, else seeded values.

    `dims`: where the batch is in each input, None for nowhere; first, where nothing is said. There, a free dimension is
    the batch, elsewhere it is 1. Floats are standard normal, integers 0 or 1.
    Raises JobError when the model's own batch is another, or for types that can't be made up.
    """
    rng = np.random.default_rng(number)
    arrays: dict[str, Any] = {}
    for place, node in enumerate(inputs):
        dtype = DTYPES.get(node.type)
        if dtype is None:
            raise WorkerError("input", f"input {node.name} is a {node.type}, which can't be made up")
        at = dims[place] if dims and place < len(dims) else None if dims else 0
        shape = [size if isinstance(size, int) else (batch if dim == at else 1) for dim, size in enumerate(node.shape)]
        if place == 0 and shape and at is not None and shape[at] != batch:
            raise WorkerError("input", f"input {node.name} is fixed at batch {shape[at]}, not {batch}")
        if place == 0 and real is not None:
            arrays[node.name] = real[np.arange(number * batch, (number + 1) * batch) % len(real)].astype(dtype)
        elif np.issubdtype(dtype, np.floating):
            arrays[node.name] = rng.standard_normal(shape).astype(dtype)
        else:
            arrays[node.name] = rng.integers(0, 2, shape).astype(dtype)
    return arrays


def check_finite_outputs(outputs: list[Any]) -> None:
    """A fast model that computes nonsense must not get a number."""
    for array in outputs:
        if isinstance(array, np.ndarray) and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise WorkerError("output", "the output holds NaN or infinity")


def check_same_outputs(outputs: list[Any], reference: str, provider: str) -> float:
    """Largest difference from the reference's outputs, relative to each output's largest value.

    Compared are floating-point outputs of the reference's shape: how many boxes a detector finds in noise may differ.
    """
    allowed = TOLERANCE.get(provider, TOLERANCE_ELSEWHERE)
    worst = 0.0
    with np.load(reference, allow_pickle=False) as kept:
        for place, array in enumerate(outputs):
            expected = kept.get(f"output{place}")
            if expected is None or not isinstance(array, np.ndarray) or array.shape != expected.shape:
                continue
            scale = float(np.abs(expected).max(initial=0)) or 1.0
            worst = max(worst, float(np.abs(array.astype(np.float64) - expected).max(initial=0)) / scale)
    if worst > allowed:
        raise WorkerError("output", f"the output differs from the reference by {worst:.1e} of its largest value")
    return worst
