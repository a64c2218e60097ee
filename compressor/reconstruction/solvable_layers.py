"""The layers of a recorded program that can be solved, with their intercepts and residual targets."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

from compressor.reconstruction.program import Operation, Program, TensorRef
from compressor.reconstruction.sampled_patches import Window

CONVOLUTIONS = tuple(f"aten.{kind}{dims}d" for kind in ("conv", "conv_transpose") for dims in (1, 2, 3))
RELU = ("aten.relu", "aten.relu_")
PASS_THROUGH = ("aten.dropout", "aten.feature_dropout", "aten.alias", "aten.contiguous", "aten.clone")


@dataclass(frozen=True, slots=True)
class Affine:
    """An operator behind a layer that scales and shifts every channel by constants."""

    scale: str | None = None  # a factor, or the weight of a BatchNorm
    shift: str | None = None
    mean: str | None = None  # running statistics of a BatchNorm
    variance: str | None = None
    eps: float = 0.0


@dataclass(frozen=True, slots=True)
class Residual:
    """The addition that closes a residual branch which ends in this layer: out = branch + shortcut."""

    operation: int
    shortcut: int  # tensor
    total: int  # tensor, the sum
    written: int  # the operation that gave the shortcut its value; -1 for an input of the model


@dataclass(frozen=True, slots=True)
class Site:
    """One call of a layer."""

    operation: int
    input: int  # tensor
    output: int  # tensor
    chain: tuple[int, ...]  # operations from here to the residual addition
    affines: tuple[Affine, ...]  # those of them that scale and shift, in order
    residual: Residual | None
    rectified: bool  # a ReLU follows, behind the affines and the addition

    @property
    def aim(self) -> Residual | None:
        """The residual addition, if its shortcut is known when this call runs."""
        return self.residual if self.residual is not None and self.residual.written < self.operation else None

    @property
    def norm(self) -> Affine | None:
        """The BatchNorm right behind the call, whose running mean takes an intercept."""
        first = self.affines[0] if self.affines else None
        return first if first is not None and first.mean is not None else None


@dataclass(frozen=True, slots=True)
class SolvableLayer:
    """A weight and all calls that use it. `window` is None for linear layers."""

    weight: str
    bias: str | None
    groups: int
    depthwise: bool
    window: Window | None
    sites: tuple[Site, ...]

    @property
    def name(self) -> str:
        return self.weight.rpartition(".")[0] or self.weight


def find_layers(program: Program) -> tuple[SolvableLayer, ...]:
    """Find every convolution and linear layer whose weight is a parameter, in the order of its last call."""
    graph = _Graph(program)
    calls: dict[str, list[tuple[int, Operation]]] = defaultdict(list)
    for index, operation in enumerate(program.operations):
        if operation.op in (*CONVOLUTIONS, "aten.linear"):
            weight = _name(program, operation.named()["weight"])
            if weight is not None:
                calls[weight].append((index, operation))
    layers = (_layer(program, graph, weight, uses) for weight, uses in calls.items())
    return tuple(sorted(layers, key=lambda layer: layer.sites[-1].operation))


def with_branches_last(program: Program, layers: tuple[SolvableLayer, ...]) -> Program:
    """Move the last layer of every residual branch to just before its addition.

    The shortcut is known there, so that the layer can aim at what the shortcut lacks. A layer is not moved past an
    operator that writes into memory.

    Args:
        program: The recorded program.
        layers: Its layers.

    Returns:
        The reordered program, which gives the same results.
    """
    order = list(range(len(program.operations)))
    for layer in layers:
        site = layer.sites[0]
        if site.residual is None:
            continue
        moved = {site.operation, *site.chain}
        at = order.index(site.residual.operation)
        begin = order.index(site.operation)
        passed = [index for index in order[begin:at] if index not in moved]
        if any(program.operations[index].mutates for index in passed):
            continue
        order[begin:at] = [*passed, *sorted(moved)]
    return program.reordered(order)


def _layer(program: Program, graph: _Graph, weight: str, uses: list[tuple[int, Operation]]) -> SolvableLayer:
    arguments = uses[0][1].named()
    sites = tuple(graph.site(index, operation) for index, operation in uses)
    if len(sites) > 1:
        sites = tuple(replace(site, residual=None) for site in sites)
    window = None if uses[0][1].op == "aten.linear" else _window(program, uses[0][1])
    groups = arguments.get("groups", 1)
    shape = program.shapes[arguments["weight"].uid]
    inputs = program.shapes[arguments["input"].uid][1] if window is not None else 0
    return SolvableLayer(
        weight, _name(program, arguments["bias"]), groups, groups == inputs > 1 and 1 in shape[:2], window, sites
    )


def _window(program: Program, operation: Operation) -> Window:
    arguments = operation.named()
    kernel = program.shapes[arguments["weight"].uid][2:]
    dims = len(kernel)
    dilation = _each(arguments["dilation"], dims)
    padding = arguments["padding"]
    if padding == "same":
        totals = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
        edges = tuple((total // 2, total - total // 2) for total in totals)
    else:
        edges = tuple((size, size) for size in _each(0 if padding == "valid" else padding, dims))
    return Window(kernel, _each(arguments["stride"], dims), edges, dilation, "transpose" in operation.op)


def _each(value: Any, dims: int) -> tuple[int, ...]:
    """One number for every dimension, however many were given."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * dims if len(values) == 1 else values


def _name(program: Program, argument: Any) -> str | None:
    return program.names.get(argument.uid) if isinstance(argument, TensorRef) else None


class _Graph:
    """The operators that read each tensor, and the depth of each tensor."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._readers: dict[tuple[int, int], list[int]] = defaultdict(list)
        self._written: dict[int, int] = {}  # tensor -> the operation that gave it its value last
        self._depth: dict[int, int] = {}
        for index, operation in enumerate(program.operations):
            below = max((self._depth.get(uid, 0) for uid in operation.reads), default=0)
            weighted = operation.op in (*CONVOLUTIONS, "aten.linear")
            for uid in operation.reads:
                self._readers[uid, self._written.get(uid, -1)].append(index)
            for uid in operation.outputs:
                self._depth[uid], self._written[uid] = below + weighted, index

    def site(self, index: int, operation: Operation) -> Site:
        """Describe a call and what follows it: constants by channel, then perhaps a residual addition.

        Args:
            index: Number of the operation.
            operation: The call of a layer.

        Returns:
            The call's site.
        """
        output = operation.outputs[0]
        source = operation.named()["input"].uid
        channel = 1 if operation.op in CONVOLUTIONS else len(self._program.shapes[output]) - 1
        affines: list[Affine] = []
        chain: list[int] = []
        uid, at = output, index
        while len(readers := self._readers[uid, at]) == 1 and uid not in self._program.outputs:
            (at,) = readers
            reader = self._program.operations[at]
            if reader.op == "aten.batch_norm" and (norm := self._batch_norm(reader, uid)):
                affines.append(norm)
            elif reader.op in ("aten.mul", "aten.mul_") and (factor := self._factor(reader, uid, channel)):
                affines.append(factor)
            elif reader.op not in PASS_THROUGH:
                residual = self._addition(at, reader, uid) if reader.op in ("aten.add", "aten.add_") else None
                rectified = self._rectified(residual.total, at) if residual is not None else reader.op in RELU
                return Site(index, source, output, tuple(chain), tuple(affines), residual, rectified)
            chain.append(at)
            uid = reader.outputs[0]
        return Site(index, source, output, tuple(chain), tuple(affines), None, False)

    def _rectified(self, uid: int, written: int) -> bool:
        """Whether a ReLU alone reads this value."""
        readers = self._readers[uid, written]
        return len(readers) == 1 and self._program.operations[readers[0]].op in RELU

    def _batch_norm(self, operation: Operation, uid: int) -> Affine | None:
        arguments = operation.named()
        scale, shift, mean, variance = (
            _name(self._program, arguments[key]) for key in ("weight", "bias", "running_mean", "running_var")
        )
        if arguments["training"] or mean is None or arguments["input"] != TensorRef(uid):
            return None
        return Affine(scale, shift, mean, variance, arguments["eps"])

    def _factor(self, operation: Operation, uid: int, channel: int) -> Affine | None:
        """A product with a parameter that has one entry for each channel, such as a layer scale."""
        for other in (ref.uid for ref in operation.named().values() if isinstance(ref, TensorRef) and ref.uid != uid):
            shape, full = self._program.shapes[other], self._program.shapes[uid]
            aligned = (1,) * (len(full) - len(shape)) + shape
            if other in self._program.names and aligned == tuple(
                size if at == channel else 1 for at, size in enumerate(full)
            ):
                return Affine(self._program.names[other])
        return None

    def _addition(self, index: int, operation: Operation, uid: int) -> Residual | None:
        """The addition, if the other operand is an activation of the same shape at a smaller depth."""
        arguments = operation.named()
        operands = [arguments["self"], arguments["other"]]
        if arguments.get("alpha", 1) != 1 or not all(isinstance(operand, TensorRef) for operand in operands):
            return None
        (shortcut,) = [ref.uid for ref in operands if ref.uid != uid] or [uid]
        alike = self._program.shapes[shortcut] == self._program.shapes[uid]
        if not alike or shortcut == uid or shortcut in self._program.constants:
            return None
        if self._depth.get(shortcut, 0) >= self._depth[uid]:
            return None
        return Residual(index, shortcut, operation.outputs[0], self._written.get(shortcut, -1))
