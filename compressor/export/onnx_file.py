"""Checks an ONNX file of unknown origin before a runtime opens it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from compressor.bench.runner.traced_sizes import traced_sizes
from compressor.core import BatchDims
from compressor.errors import ModelError
from compressor.file_digest import sha256


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A file that parses, and whose external weights, if any, are regular files in its own folder."""

    path: Path
    sha256: str
    external: tuple[PurePosixPath, ...]  # relative to the folder
    open_sizes: tuple[str, ...]  # INPUT[DIMENSION] without a size, besides the first dimension and what metadata says

    @property
    def size(self) -> int:
        """Bytes of the file and of its external weights."""
        return sum(path.stat().st_size for path in (self.path, *(self.path.parent / name for name in self.external)))

    def copy_to(self, folder: Path) -> Path:
        """Copy the file and its external weights to another folder, under the same names."""
        for name in self.external:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.path.parent / name, folder / name)
        return Path(shutil.copyfile(self.path, folder / self.path.name))


def validate_onnx(path: Path) -> OnnxFile:
    """Raises ModelError if the file is missing, is not an ONNX model, or refers to weights outside its own folder."""
    if not path.is_file():
        problem = "it is a folder" if path.is_dir() else "the file does not exist"
        raise ModelError("onnx-model/no-such-file", str(path), problem, "give an .onnx file")
    try:
        model = onnx.load(str(path), load_external_data=False)
        digest = sha256(path)
    except (DecodeError, OSError) as error:
        raise ModelError(
            "onnx-model/not-onnx",
            str(path),
            f"it is not an ONNX model ({error})",
            "export it again, or check the download",
        ) from error
    if not model.graph.node and not model.graph.initializer:
        problem = "the model has no operators" if path.stat().st_size else "the file is empty"
        raise ModelError("onnx-model/empty", str(path), problem, "export it again, or check the download")
    external = tuple(sorted({external_location(path, tensor) for tensor in external_tensors(model)}))
    return OnnxFile(path, digest, external, tuple(_open_sizes(model)))


def has_free_sizes(path: Path) -> bool:
    """Return whether our file leaves other sizes than the batch free."""
    return bool(_free_sizes(onnx.load(str(path), load_external_data=False)))


def _free_sizes(model: ModelProto) -> dict[str, int]:
    return traced_sizes({entry.key: entry.value for entry in model.metadata_props}, inputs=0)[1]


def _open_sizes(model: ModelProto) -> Iterator[str]:
    known = _free_sizes(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        dims = list(value.type.tensor_type.shape.dim)[1:] if value.name not in weights else []
        for number, dim in enumerate(dims, 1):
            if not dim.HasField("dim_value") and dim.dim_param not in known:
                yield f"{value.name}[{number}]"


def has_free_batch(path: Path, batch_dims: BatchDims) -> bool:
    """Whether the batch dimension of an input has a name instead of a size.

    Args:
        path: The ONNX file.
        batch_dims: The batch dimension of each input, None for an input without one.

    Returns:
        True where batches of any size may run.
    """
    graph = onnx.load(str(path), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    pairs = zip(inputs, batch_dims, strict=False)
    dims = [value.type.tensor_type.shape.dim[dim] for value, dim in pairs if dim is not None]
    return any(not dim.HasField("dim_value") or dim.dim_value < 0 for dim in dims)


def has_float16_weights(path: Path) -> bool:
    """Return whether a file stores weights in float16."""
    graph = onnx.load(str(path), load_external_data=False).graph
    return any(tensor.data_type == TensorProto.FLOAT16 and any(tensor.dims) for tensor in onnx_tensors(graph))


def external_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor whose data is in another file, including those in subgraphs and functions."""
    function_nodes = (node for function in model.functions for node in function.node)
    for tensor in chain(onnx_tensors(model.graph), *map(node_tensors, function_nodes)):
        if tensor.data_location == TensorProto.EXTERNAL:
            yield tensor


def onnx_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every constant of a graph."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from node_tensors(node)


def node_tensors(node: NodeProto) -> Iterator[TensorProto]:
    """Every constant in the attributes of a node."""
    for attribute in node.attribute:
        match attribute.type:
            case AttributeProto.TENSOR:
                yield attribute.t
            case AttributeProto.TENSORS:
                yield from attribute.tensors
            case AttributeProto.GRAPH:
                yield from onnx_tensors(attribute.g)
            case AttributeProto.GRAPHS:
                for graph in attribute.graphs:
                    yield from onnx_tensors(graph)


def external_location(path: Path, tensor: TensorProto) -> PurePosixPath:
    """Look up where the data of a tensor is stored.

    Args:
        path: The ONNX file.
        tensor: A tensor with external data.

    Returns:
        The path of the data, relative to the model's folder.

    Raises:
        ModelError: It is not a regular file inside that folder.
    """
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    relative = PurePosixPath(location)
    file = path.parent / relative
    inside = bool(location) and not relative.is_absolute() and ".." not in relative.parts
    inside = inside and not any(character in location for character in "\\\0")
    if not inside or file.is_symlink() or not file.resolve().is_relative_to(path.parent.resolve()):
        problem = f"tensor {tensor.name} refers to {location!r}, outside the model's folder"
        hint = "store the weights in files beside the model"
        raise ModelError("onnx-model/weights-outside-folder", str(path), problem, hint)
    if not file.is_file():
        problem = f"the weight file {location!r} is missing beside it"
        raise ModelError("onnx-model/weights-missing", str(path), problem, "copy that file too")
    return relative
