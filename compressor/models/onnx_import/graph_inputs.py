"""The inputs of a graph: which dimension is the batch, sizes that the file leaves free, and ranges of integers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import torch

from compressor.core import BatchDims, ModelInput
from compressor.errors import ModelError
from compressor.models.onnx_import.links import Links
from compressor.models.onnx_import.node import Node
from compressor.models.onnx_import.read_graph import Graph, GraphInput
from compressor.models.onnx_import.values import module_dtype

IMAGE_SIZES = ((224, 224), (256, 256), (320, 320), (640, 640), (48, 320), (32, 32), (512, 512))
LENGTHS = (64, 16, 128, 512, 16000, 1)
MAX_ENTRIES = 2**28  # of one sample
CHANNELS = (1, 3, 4)


def input_candidates(
    graph: Graph, shapes: Sequence[tuple[int, ...]] | None, where: str
) -> Iterator[tuple[ModelInput, ...]]:
    """Yield the inputs that a graph may take, the likeliest first. The caller runs the file to choose.

    Inputs with a batch have it first, as the module takes them.

    Args:
        graph: The graph.
        shapes: The shapes without the batch, if the user gives them.
        where: The file, for errors.

    Yields:
        One description for each input. Where every size is written in the file, there is one candidate.

    Raises:
        ModelError: The number of shapes, or a shape, contradicts the file; or an input's type is not supported.
    """
    described = [_described(one, graph, where) for one in graph.signature]
    batch_dims = batch_dims_of_file(graph.signature)
    if shapes is not None:
        yield _given(described, batch_dims, graph.signature, shapes, where)
        return
    free = sorted({size for one, dim in zip(graph.signature, batch_dims, strict=True) for size in _free(one, dim)})
    for values in _guesses(graph.signature, free):
        inputs = []
        for model_input, signature, dim in zip(described, graph.signature, batch_dims, strict=True):
            sizes = [values.get(size, 1) if isinstance(size, str) else size for size in signature.sizes]
            shape = tuple(size for at, size in enumerate(sizes) if at != dim)
            if math.prod(map(float, shape)) > MAX_ENTRIES:
                problem = f"its input has the shape {list(shape)}"
                raise ModelError(
                    "onnx-model/unsupported-input", f"{where}: {signature.name}", problem, "export it again"
                )
            inputs.append(replace(model_input, shape=shape, batch_dim=None if dim is None else 0))
        yield tuple(inputs)


def _described(signature: GraphInput, graph: Graph, where: str) -> ModelInput:
    dtype = module_dtype(signature.element_type)
    if dtype is None:
        problem = f"its element type {signature.element_type} is not supported"
        hint = "export it with floating-point, integer or boolean inputs"
        raise ModelError("onnx-model/unsupported-input", f"{where}: {signature.name}", problem, hint)
    name = str(dtype).removeprefix("torch.")
    if dtype.is_floating_point:
        return ModelInput((), name=signature.name)
    rows = _rows(signature.name, graph) or 2
    bounds = (0, 1) if name == "bool" else (0, 255) if name == "uint8" else (0, rows - 1)
    return ModelInput((), name, bounds, signature.name)


def unbounded_integers(graph: Graph) -> frozenset[str]:
    """Return the inputs of integers of which the graph does not say how many values they have, such as lengths."""
    kinds = {one.name: module_dtype(one.element_type) for one in graph.signature}
    integers = (name for name, dtype in kinds.items() if dtype in (torch.int32, torch.int64))
    return frozenset(name for name in integers if _rows(name, graph) is None)


def _rows(name: str, graph: Graph) -> int | None:
    """How many values an input of integers has: rows of the table that it looks up, or classes of a one-hot."""
    links = Links.of(graph.nodes, graph.outputs)
    names = [name]
    while names:
        current = names.pop()
        for at in links.readers.get(current, ()):
            node: Node = graph.nodes[at]
            table = graph.constants.get(node.inputs[0])
            if node.op == "Gather" and table is not None and node.inputs[1] == current:
                return int(table.shape[node.get("axis", 0)])
            classes = [graph.constants[name] for name in node.inputs if name in graph.constants and name != current]
            if node.op == "OneHot" and node.inputs[1] in graph.constants:
                return int(graph.constants[node.inputs[1]].max())
            if node.op == "Equal" and classes and classes[0].size > 2:  # a one-hot, written out
                return int(classes[0].max()) + 1
            if node.op in ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Expand"):
                names.append(node.outputs[0])
    return None


def batch_dims_of_file(signature: Sequence[GraphInput]) -> BatchDims:
    """Find the free first dimension of the first input, and where the others have it; or a first dimension of one."""
    first = next((one.sizes for one in signature if len(one.sizes) > 1), ())
    if first and isinstance(first[0], str):
        named = [next((at for at, size in enumerate(one.sizes) if size == first[0]), None) for one in signature]
        own = [0 if one.sizes and isinstance(one.sizes[0], str) and len(one.sizes) > 1 else None for one in signature]
        return tuple(by_name if by_name is not None else other for by_name, other in zip(named, own, strict=True))
    if first and all(one.sizes[0] == 1 for one in signature if len(one.sizes) > 1):
        return tuple(0 if len(one.sizes) > 1 else None for one in signature)
    return (None,) * len(signature)


def free_sizes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Return the dimensions of each input, without the batch, that the file leaves free."""
    dims = batch_dims_of_file(graph.signature)
    sizes = {
        one.name: [size for at, size in enumerate(one.sizes) if at != dim]
        for one, dim in zip(graph.signature, dims, strict=True)
    }
    free = {name: tuple(at for at, size in enumerate(own) if isinstance(size, str)) for name, own in sizes.items()}
    return {name: places for name, places in free.items() if places}


def _free(one: GraphInput, batch_dim: int | None) -> list[str]:
    return [size for at, size in enumerate(one.sizes) if isinstance(size, str) and at != batch_dim]


def _given(
    described: Sequence[ModelInput],
    batch_dims: Sequence[int | None],
    signature: Sequence[GraphInput],
    shapes: Sequence[tuple[int, ...]],
    where: str,
) -> tuple[ModelInput, ...]:
    """Take the shapes of the user, which must fit the sizes that the file fixes."""
    inputs = []
    if len(shapes) != len(described):
        problem = f"model.input has {len(shapes)} shapes, but the file has {len(described)} inputs"
        raise ModelError("model/setting-differs", where, problem, "give one shape for each input")
    for model_input, one, dim, shape in zip(described, signature, batch_dims, shapes, strict=True):
        fixed = [size for at, size in enumerate(one.sizes) if at != dim]
        fits = len(fixed) == len(shape) and all(isinstance(a, str) or a == b for a, b in zip(fixed, shape, strict=True))
        if not fits:
            problem = f"model.input is {list(shape)}, but input {one.name} is {fixed} without the batch"
            raise ModelError("model/setting-differs", where, problem, "set sizes of the file's dynamic dimensions only")
        inputs.append(replace(model_input, shape=tuple(shape), batch_dim=None if dim is None else 0))
    return tuple(inputs)


def _guesses(signature: Sequence[GraphInput], free: Sequence[str]) -> Iterator[dict[str, int]]:
    """Sizes for the free dimensions: usual image sizes for positions of images, else usual lengths."""
    if not free:
        yield {}
        return
    places: dict[str, tuple[int, int]] = {}  # size -> (0 height, 1 width or 2 other; order)
    for one in signature:
        rank = len(one.sizes)
        channels_last = rank == 4 and one.sizes[3] in CHANNELS and one.sizes[1] not in CHANNELS
        for at, size in enumerate(one.sizes):
            if size in free:
                assert isinstance(size, str), "free sizes are names"
                position = at - (1 if channels_last else 2) if rank == 4 else 2
                places.setdefault(size, (position if position in (0, 1) else 2, at))
    kinds = {place for place, _ in places.values()}
    images = IMAGE_SIZES if kinds & {0, 1} else IMAGE_SIZES[:1]
    for image, length in product(images, LENGTHS if 2 in kinds else LENGTHS[:1]):
        yield {size: image[place] if place < 2 else length for size, (place, _) in places.items()}
