"""A model as an ONNX Runtime session: its inputs, the check of who executes it, and the check of its outputs."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np

from .system_info import usable_cpu_count
from .traced_sizes import NO_BATCH, traced_sizes
from .worker import WorkerError

PROVIDERS = {  # name in targets.yaml -> name in ONNX Runtime
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "qnn": "QNNExecutionProvider",
}
DEFAULT_OPTIONS = {"tensorrt": {"trt_sparsity_enable": "1"}}  # use sparse kernels for 2:4 weights
GRAPH_LEVELS = {"none": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}
MAX_FEEDS = 8  # different batches, used in turn
TOLERANCE = {"cpu": 1e-2}  # relative to an output's largest value; another order of the same sums is far below
ACCELERATOR_TOLERANCE = 5e-2  # which may compute in half precision

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
    """A session with its inputs, after its first run.

    `session_ms` and `first_run_ms` are the durations of loading and of the first run.
    """

    def __init__(self, path: str, request: dict[str, Any], profile: str | None = None) -> None:
        start = perf_counter()
        self.session = create_session(path, request, profile)
        self.session_ms = (perf_counter() - start) * 1e3
        nodes = self.session.get_inputs()
        metadata = self.session.get_modelmeta().custom_metadata_map
        dims, sizes = traced_sizes(metadata, len(nodes))
        given, given_dims = read_timed_inputs(request["inputs"]) if request["inputs"] else ({}, {})
        dims = [given_dims.get(node.name, dim) for node, dim in zip(nodes, dims)]
        count = min(MAX_FEEDS, count_batches(nodes, given, dims, request["batch"]))
        self.feeds = [make_feed(nodes, request["batch"], given, index, dims, sizes) for index in range(count)]
        self.runs = 0
        start = perf_counter()
        try:
            self.outputs = self.run()
        except Exception as error:
            shapes = ", ".join(f"{node.name}: {node.shape}" for node in nodes)
            raise WorkerError(
                "run", f"{error} (inputs {shapes}; free dimensions of inputs without data were set to 1)"
            ) from error
        self.first_run_ms = (perf_counter() - start) * 1e3
        check_finite_outputs(self.outputs)

    def run(self) -> list[Any]:
        """Run on the next batch."""
        outputs: list[Any] = self.session.run(None, self.feeds[self.runs % len(self.feeds)])
        self.runs += 1
        return outputs


def create_session(path: str, request: dict[str, Any], profile: str | None) -> Any:
    """Load a model. All its nodes run on the requested provider unless `cpu_fallback` allows the CPU as well.

    Args:
        path: The ONNX file.
        request: The job: provider, options, cpu_fallback, threads, graph.
        profile: Prefix of the profiler's file; None = no profiling.

    Returns:
        The session.

    Raises:
        WorkerError: The runtime lacks the provider, or cannot load the model.
    """
    import onnxruntime as ort

    provider = PROVIDERS[request["provider"]]
    if provider not in ort.get_available_providers():
        available = ", ".join(name for name, full in PROVIDERS.items() if full in ort.get_available_providers())
        raise WorkerError("provider", f"no {provider} in onnxruntime {ort.__version__}; available: {available}")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = request["threads"], 1
    spins = request["threads"] <= usable_cpu_count()  # more threads than CPUs would only take them from each other
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, "ORT_" + GRAPH_LEVELS[request["graph"]])
    options.log_severity_level = 4
    if request["provider"] != "cpu" and not request["cpu_fallback"]:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    providers = [(provider, {**DEFAULT_OPTIONS.get(request["provider"], {}), **request["options"]})]
    if request["provider"] == "tensorrt":
        providers.append((PROVIDERS["cuda"], {}))
    if request["provider"] in ("cuda", "tensorrt") and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    try:
        session = ort.InferenceSession(path, options, providers=providers)
    except Exception as error:
        kind = "fallback" if "fallback" in str(error) else "load"
        raise WorkerError(kind, str(error)) from error
    if session.get_providers()[0] != provider:
        raise WorkerError("provider", f"{provider} was requested, {', '.join(session.get_providers())} loaded it")
    return session


def read_timed_inputs(path: str) -> tuple[dict[str, Any], dict[str, int | None]]:
    """Read what `write_timed_inputs` wrote.

    Args:
        path: The file.

    Returns:
        Name of an input -> array of samples, and name -> batch dimension, None for an input without one.
    """
    with np.load(path, allow_pickle=False) as file:
        names = [str(name) for name in file["names"]]
        dims = [None if dim == NO_BATCH else int(dim) for dim in file["dims"]]
        return {name: file[f"input{index}"] for index, name in enumerate(names)}, dict(zip(names, dims))


def count_batches(nodes: list[Any], given: dict[str, Any], dims: list[Any], batch: int) -> int:
    """Count the batches that the given samples fill; the last may begin again with the first sample.

    Args:
        nodes: The session's inputs.
        given: Arrays by name of the input.
        dims: The batch dimension of each input, None for an input without one.
        batch: Batch size.

    Returns:
        The number of batches, at least 1.
    """
    pairs = [(given[node.name], dim) for node, dim in zip(nodes, dims) if node.name in given and dim is not None]
    return max([-(-array.shape[dim] // batch) for array, dim in pairs], default=1)


def make_feed(
    nodes: list[Any], batch: int, given: dict[str, Any], index: int, dims: list[Any], sizes: dict[str, int]
) -> dict[str, Any]:
    """Make one batch: given samples where there are any, seeded values otherwise.

    Of an input without samples a free batch dimension gets the batch size, and every other free dimension the size that
    the file was traced with, or 1 where it does not say that. Floats are standard normal, integers 0 or 1.

    Args:
        nodes: The session's inputs.
        batch: Batch size.
        given: Arrays by name of the input.
        index: Number of the batch, which selects the samples or seeds the values.
        dims: The batch dimension of each input, None for an input without one.
        sizes: Name of a free dimension -> its size.

    Returns:
        An array for each input.

    Raises:
        WorkerError: The model has a fixed batch of another size, or an input of a type without generator.
    """
    rng = np.random.default_rng(index)
    arrays: dict[str, Any] = {}
    for position, node in enumerate(nodes):
        dtype = DTYPES.get(node.type)
        if dtype is None:
            raise WorkerError("input", f"input {node.name} is a {node.type}, which cannot be generated")
        axis = dims[position] if position < len(dims) else None
        shape = [
            size if isinstance(size, int) else (batch if dim == axis else sizes.get(size, 1))
            for dim, size in enumerate(node.shape)
        ]
        if position == 0 and shape and axis is not None and shape[axis] != batch:
            raise WorkerError("input", f"input {node.name} is fixed at batch {shape[axis]}, not {batch}")
        if node.name in given:
            samples = given[node.name]
            if axis is not None:
                rows = np.arange(index * batch, (index + 1) * batch) % samples.shape[axis]
                samples = samples.take(rows, axis)
            arrays[node.name] = samples.astype(dtype)
        elif np.issubdtype(dtype, np.floating):
            arrays[node.name] = rng.standard_normal(shape).astype(dtype)
        else:
            arrays[node.name] = rng.integers(0, 2, shape).astype(dtype)
    return arrays


def check_finite_outputs(outputs: list[Any]) -> None:
    """Raise WorkerError for NaN or infinity: a model that computes nonsense has no latency."""
    for array in outputs:
        if isinstance(array, np.ndarray) and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise WorkerError("output", "the output holds NaN or infinity")


def check_same_outputs(outputs: list[Any], reference: str, provider: str) -> float:
    """Compare outputs with the reference.

    Outputs of another shape than the reference's are skipped: the number of boxes that a detector reports for noise
    may differ.

    Args:
        outputs: The outputs of the session.
        reference: An .npz file with `output0`, `output1`, ...
        provider: Name of the provider in targets.yaml, which determines the tolerance.

    Returns:
        The largest difference, relative to the largest value of that output.

    Raises:
        WorkerError: The difference exceeds the tolerance.
    """
    tolerance = TOLERANCE.get(provider, ACCELERATOR_TOLERANCE)
    worst = 0.0
    with np.load(reference, allow_pickle=False) as arrays:
        for index, array in enumerate(outputs):
            expected = arrays.get(f"output{index}")
            if expected is None or not isinstance(array, np.ndarray) or array.shape != expected.shape:
                continue
            scale = float(np.abs(expected).max(initial=0)) or 1.0
            worst = max(worst, float(np.abs(array.astype(np.float64) - expected).max(initial=0)) / scale)
    if worst > tolerance:
        raise WorkerError("output", f"the output differs from the reference by {worst:.1e} of its largest value")
    return worst
