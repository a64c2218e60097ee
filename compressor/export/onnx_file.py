"""A look at an ONNX file from anywhere, before a runtime opens it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from compressor.errors import ModelError


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A file whose structure parses and whose weights, if outside, lie in regular files of its own folder."""

    path: Path
    sha256: str
    external: tuple[PurePosixPath, ...]  # relative to the folder

    def copy_to(self, folder: Path) -> Path:
        """A byte copy, with the weights outside it, under the same names."""
        for name in self.external:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.path.parent / name, folder / name)
        return Path(shutil.copyfile(self.path, folder / self.path.name))


def validate_onnx(path: Path) -> OnnxFile:
    """Raises ModelError for what is missing, is no ONNX model, or names weights outside its own folder."""
    if not path.is_file():
        problem = "it is a folder" if path.is_dir() else "the file does not exist"
        raise ModelError("onnx-model/no-such-file", str(path), problem, "give an .onnx file")
    try:
        model = onnx.load(str(path), load_external_data=False)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
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
    return OnnxFile(path, digest, tuple(sorted({external_location(path, tensor) for tensor in is_outside(model)})))


def has_free_batch(path: Path) -> bool:
    """Whether some dimension of its inputs has a name instead of a size."""
    inputs = onnx.load(str(path), load_external_data=False).graph.input
    return any(dim.dim_param for each in inputs for dim in each.type.tensor_type.shape.dim)


def is_outside(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor whose data is in another file, in subgraphs and functions too."""
    for tensor in onnx_tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            yield tensor
    for function in model.functions:
        for node in function.node:
            yield from (each for each in node_tensors(node) if each.data_location == TensorProto.EXTERNAL)


def onnx_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from node_tensors(node)


def node_tensors(node: NodeProto) -> Iterator[TensorProto]:
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
    """Where a tensor says its data is, if that is a regular file inside the model's folder."""
    named = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    relative = PurePosixPath(named)
    file = path.parent / relative
    inside = bool(named) and not relative.is_absolute() and ".." not in relative.parts and "\\" not in named
    if not inside or file.is_symlink() or not file.resolve().is_relative_to(path.parent.resolve()):
        hint = "store the weights in files beside the model"
        raise ModelError(
            "onnx-model/weights-outside-folder",
            str(path),
            f"tensor {tensor.name} refers to {named!r}, outside the model's folder",
            hint,
        )
    if not file.is_file():
        raise ModelError(
            "onnx-model/weights-missing",
            str(path),
            f"the weight file {named!r} is missing beside it",
            "copy that file too",
        )
    return relative
