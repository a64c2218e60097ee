"""Read an ONNX file of unknown origin: nothing is executed, and nothing is allocated that the file does not hold."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor
from onnx.inliner import inline_local_functions

from compressor.errors import ModelError, VerificationFailed
from compressor.export.onnx_file import onnx_tensors, validate_onnx
from compressor.models.onnx_import.constant_sizes import constant_sizes
from compressor.models.onnx_import.if_nodes import MAX_IFS, Branches, count_ifs, put_in_place, read_names
from compressor.models.onnx_import.node import STANDARD, SUBGRAPHS, Node, node_names, unsupported
from compressor.models.onnx_import.values import HostArray, in_float32

OLDEST = 7
WITHOUT_WEIGHTS = "compressor_without_weights"
"""Metadata of an architecture file: large weights have a shape and no data (see write_back.py)."""
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
PACKED = (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1, TensorProto.STRING)


@dataclass(frozen=True, slots=True)
class GraphInput:
    """An input of the graph; a size is a name where the file leaves it free."""

    name: str
    sizes: tuple[int | str, ...]
    element_type: int


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph as plain data: nodes in an order in which they can run, and constants as arrays."""

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, HostArray]
    signature: tuple[GraphInput, ...]
    branches: Branches = ()  # of Ifs, that the nodes are in place of
    constant_sizes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)  # of results of Reshapes


def read_graph(path: Path, branches: Branches = ()) -> Graph:
    """Read a file and its weights.

    Args:
        path: The file.
        branches: Ifs whose condition is known, and the condition.

    Returns:
        The graph.

    Raises:
        ModelError: It is no model, contradicts itself, or has operators that cannot be imported.
        VerificationFailed: A weight is not finite.
    """
    model = read_model(path, branches)
    opsets = {entry.domain if entry.domain not in STANDARD else "": entry.version for entry in model.opset_import}
    names = node_names(model.graph.node)
    nodes = []
    for proto, name in zip(model.graph.node, names, strict=True):
        domain = "" if proto.domain in STANDARD else proto.domain
        node = Node.of(proto, name, opsets.get(domain, 1))
        _refuse_quantized(node, path)
        if proto.op_type != "If" and any(attribute.type in SUBGRAPHS for attribute in proto.attribute):
            raise unsupported(node, "it runs a graph inside of the graph")
        nodes.append(node)
    constants = {}
    random = np.random.default_rng(0)
    bare = any(entry.key == WITHOUT_WEIGHTS for entry in model.metadata_props)
    for tensor in model.graph.initializer:
        constants[tensor.name] = _array(tensor, path, random if bare else None)
    if model.graph.sparse_initializer:
        raise ModelError("onnx-model/sparse-weights", str(path), "it stores sparse weights", "store them as dense ones")
    signature = tuple(_input(value, path) for value in model.graph.input if value.name not in constants)
    inputs, outputs = tuple(one.name for one in signature), tuple(value.name for value in model.graph.output)
    if not inputs or not outputs:
        problem = "the graph has no inputs" if not inputs else "the graph has no outputs"
        raise ModelError("onnx-model/not-a-network", str(path), problem, "give the file of a network")
    sizes = constant_sizes(model)
    return Graph(path.name, tuple(nodes), inputs, outputs, constants, signature, branches, sizes)


def read_model(path: Path, branches: Branches = ()) -> ModelProto:
    """Read a file and put its nodes into an order in which they can run; its functions become nodes.

    Args:
        path: The file.
        branches: Ifs whose condition is known, and the condition; the branch takes the place of the If.

    Returns:
        The model, with the data of external weights.

    Raises:
        ModelError: It is no model, or contradicts itself.
    """
    validate_onnx(path)
    model = onnx.load(str(path), load_external_data=False)
    versions = [entry.version for entry in model.opset_import if entry.domain in STANDARD]
    newest = onnx.defs.onnx_opset_version()
    if not versions or not OLDEST <= versions[0] <= newest:
        problem = f"it has opset {versions[0] if versions else 'none'}"
        hint = f"export it with an opset from {OLDEST} to {newest}"
        raise ModelError("onnx-model/unsupported-opset", str(path), problem, hint)
    _check_weights(model, path)
    for tensor in onnx_tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    if model.functions:
        model = inline_local_functions(model)
    if (ifs := count_ifs(model.graph.node)) > MAX_IFS:
        problem = f"it has {ifs:,} If nodes, and {MAX_IFS:,} are allowed"
        raise ModelError("onnx-model/too-many-ifs", str(path), problem, "export it without control flow")
    ordered = _ordered(model, path)
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    put_in_place(model, branches)
    return model


def _ordered(model: ModelProto, path: Path) -> list[NodeProto]:
    """Sort the nodes so that each comes after those that make its inputs."""
    known = {value.name for value in model.graph.input} | {tensor.name for tensor in model.graph.initializer}
    known |= {sparse.values.name for sparse in model.graph.sparse_initializer} | {""}
    nodes = list(model.graph.node)
    makers = Counter(name for node in nodes for name in node.output if name)
    doubled = next((name for name, count in makers.items() if count > 1 or name in known), None)
    if doubled is not None:
        raise _contradiction(path, f"several nodes make the value {doubled!r}")
    missing = [dict.fromkeys(name for name in read_names(node) if name not in known) for node in nodes]
    readers: dict[str, list[int]] = {}
    for index, names in enumerate(missing):
        for name in names:
            readers.setdefault(name, []).append(index)
    ready = [(0, index) for index, names in enumerate(missing) if not names]  # a heap: lowest pass, then lowest index
    ordered = []
    while ready:
        turn, index = heappop(ready)
        ordered.append(nodes[index])
        for name in filter(None, nodes[index].output):
            for reader in readers.get(name, ()):
                del missing[reader][name]
                if not missing[reader]:
                    heappush(ready, (turn + (reader < index), reader))  # a pass over the file goes forward only
    stuck = next((index for index, names in enumerate(missing) if names), None)
    if stuck is not None:
        name = next(iter(missing[stuck]))
        what = "depends on its own result" if name in makers else f"reads {name!r}, which nothing makes"
        raise _contradiction(path, f"node {nodes[stuck].name or nodes[stuck].op_type} {what}")
    known |= makers.keys()
    absent = next((value.name for value in model.graph.output if value.name not in known), None)
    if absent is not None:
        raise _contradiction(path, f"nothing makes its output {absent!r}")
    return ordered


def _contradiction(path: Path, problem: str) -> ModelError:
    return ModelError("onnx-model/inconsistent", str(path), problem, "export it again, or check the download")


def _check_weights(model: ModelProto, path: Path) -> None:
    """Compare the size of every constant with the data that the file has for it, before any is allocated."""
    bare = any(entry.key == WITHOUT_WEIGHTS for entry in model.metadata_props)
    for tensor in onnx_tensors(model.graph):
        if tensor.data_type in PACKED:
            continue
        try:
            itemsize = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        except KeyError:
            raise _contradiction(path, f"weight {tensor.name} has the unknown type {tensor.data_type}") from None
        expected = math.prod(tensor.dims) * itemsize
        if any(size < 0 for size in tensor.dims):
            raise _contradiction(path, f"weight {tensor.name} has a negative size")
        stored = _stored_bytes(tensor, path, itemsize)
        if stored != expected and not (bare and stored == 0):
            problem = (
                f"weight {tensor.name} has the shape {list(tensor.dims)}, {expected:,} bytes, but {stored:,} are stored"
            )
            raise ModelError("onnx-model/weights-truncated", str(path), problem, "copy the file again")
        if bare and stored == 0 and expected > 2**34:
            raise _contradiction(path, f"weight {tensor.name} takes {expected:,} bytes")


def _stored_bytes(tensor: TensorProto, path: Path, itemsize: int) -> int:
    if tensor.data_location == TensorProto.EXTERNAL:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        size = (path.parent / entries.get("location", "")).stat().st_size
        offset = _number(entries.get("offset", "0"))
        length = _number(entries["length"]) if "length" in entries else max(0, size - offset)
        return length if offset + length <= size else max(0, size - offset)
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    return max(map(len, fields)) * itemsize


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _array(tensor: TensorProto, path: Path, random: np.random.Generator | None) -> HostArray:
    """Decode a constant; `random` makes the weights that an architecture file leaves out."""
    if tensor.data_type in PACKED:
        raise _contradiction(path, f"weight {tensor.name} has a type that is not supported")
    if random is not None and not tensor.HasField("raw_data") and _stored_bytes(tensor, path, 1) == 0:
        return random.normal(0.0, 0.05, tuple(tensor.dims)).astype(np.float32)
    array = numpy_helper.to_array(tensor)
    if array.ndim > 1 and not array.size and array.dtype.kind == "f":
        raise _contradiction(path, f"weight {tensor.name} has the shape {list(array.shape)}, which has no entries")
    if array.dtype.name == "bfloat16" and array.size > 1:  # ONNX Runtime has no bfloat16 on CPUs
        problem = f"weight {tensor.name} is bfloat16"
        hint = "give the float32 file; convert it after pruning"
        raise ModelError("onnx-model/bfloat16", str(path), problem, hint)
    array = in_float32(array)
    if array.dtype.kind == "f" and array.size > 1 and np.isnan(array).any():
        problem = "it has values that are not finite"
        raise VerificationFailed(
            "weights/non-finite", f"{path}: {tensor.name}", problem, "export the trained model again"
        )
    return array


def _input(value: onnx.ValueInfoProto, path: Path) -> GraphInput:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise ModelError(
            "onnx-model/unsupported-input",
            f"{path}: {value.name}",
            "it is no tensor of a known rank",
            "export it again",
        )
    sizes = tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else _free_name(dim, f"{value.name}_{at}")
        for at, dim in enumerate(kind.shape.dim)
    )
    if any(isinstance(size, int) and size <= 0 for size in sizes):
        problem = f"its shape {list(sizes)} has a size that is not positive"
        raise ModelError("onnx-model/unsupported-input", f"{path}: {value.name}", problem, "export it again")
    return GraphInput(value.name, sizes, kind.elem_type)


def _free_name(dim: onnx.TensorShapeProto.Dimension, name: str) -> str:
    """The name of a free size. Some exporters give all of them the name `?`, or the size -1."""
    given: str = dim.dim_param
    return given if given not in ("", "?") else name


def _refuse_quantized(node: Node, path: Path) -> None:
    if node.op in QUANTIZED or node.op.startswith("QLinear") or node.op in ("MatMulNBits", "MatMulBnb4"):
        problem = f"node {node.name} ({node.kind}) computes with quantized weights or activations"
        hint = "give the floating-point file that it was made of; quantize after pruning, with export.int8"
        raise ModelError("onnx-model/quantized", str(path), problem, hint)
