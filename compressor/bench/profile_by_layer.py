"""Time by layer: the operators of two models, profiled apart from the latency measurement, summed by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import onnx

from compressor.bench.device.protocol import Job, NodeTime
from compressor.bench.device.session import RunnerSession
from compressor.core import LAYOUT_COPIES, LayerTime

FUSED = {"BatchNormalization", "Relu", "Clip", "Add", "Sigmoid", "LeakyRelu", "HardSigmoid", "HardSwish", "Tanh", "Mul"}
"""operators that ONNX Runtime fuses into the convolution or matrix product before them"""

COPIES = {"ReorderInput", "ReorderOutput", "Transpose", "MemcpyFromHost", "MemcpyToHost", "Cast"}
PASSES = 2  # of each model, in mirrored order; the faster one counts for each operator
GRAPH_SUFFIXES = ("_nchwc", "_token")  # which ONNX Runtime's optimizer appends to names


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """The sum of several operators; `op` is the type of the first."""

    op: str
    us: float = 0.0
    bytes: int = 0

    def plus(self, node: NodeTime) -> OperatorRow:
        """Add an operator."""
        return OperatorRow(self.op, self.us + node.us, self.bytes + node.bytes)


NOTHING = OperatorRow("")


def time_by_layer(session: RunnerSession, a: Path, b: Path, job: Job) -> tuple[LayerTime, ...]:
    """Profile two models and list the time of each layer: layers with weights by name, other operators by type.

    Other processes can only make an operator slower, so the faster one of two passes counts. Profiling takes time
    itself: the sum exceeds the model's latency.

    Args:
        session: The device.
        a: An ONNX file.
        b: The other ONNX file.
        job: Its batch size and inputs are used; a pass lasts a window.

    Returns:
        One record for each layer, in the order of `a`.

    Raises:
        CompressorError: As `RunnerSession.run`.
    """
    passes: dict[Path, list[list[NodeTime]]] = {a: [], b: []}
    for index in range(PASSES):
        for path in (a, b) if index % 2 == 0 else (b, a):
            passes[path].append(session.profile(path, job))
    before, after = (rows_by_layer(fastest(passes[path]), layers_of(path)) for path in (a, b))
    return tuple(
        LayerTime(
            name=name,
            op=before.get(name, after.get(name, NOTHING)).op,
            before_us=before[name].us if name in before else None,
            after_us=after[name].us if name in after else None,
            before_bytes=before.get(name, NOTHING).bytes,
            after_bytes=after.get(name, NOTHING).bytes,
        )
        for name in dict.fromkeys((*before, *after))
    )


def fastest(passes: list[list[NodeTime]]) -> list[NodeTime]:
    """Each operator in the pass where it was fastest; all passes hold the same operators."""
    best: dict[str, NodeTime] = {}
    for node in chain.from_iterable(passes):
        if node.name not in best or node.us < best[node.name].us:
            best[node.name] = node
    return list(best.values())


def rows_by_layer(nodes: Iterable[NodeTime], layers: Mapping[str, str]) -> dict[str, OperatorRow]:
    """Sum operators by row: operators with weights by layer, layout copies in one row, all others by type.

    Args:
        nodes: The operators.
        layers: Name of an operator -> layer, see `layers_of`.

    Returns:
        The sums by row name.
    """
    rows: dict[str, OperatorRow] = {}
    for node in nodes:
        layer = layers.get(plain_name(node.name)) if node.op not in FUSED else None
        name = LAYOUT_COPIES if node.op in COPIES else layer or f"all {node.op}"
        rows[name] = rows.get(name, OperatorRow(node.op)).plus(node)
    return rows


def plain_name(name: str) -> str:
    """An operator's name without the suffixes of ONNX Runtime's optimizer."""
    for suffix in GRAPH_SUFFIXES:
        name = name.partition(suffix)[0]
    return name


def layers_of(path: Path) -> dict[str, str]:
    """Map every name that the runtime may give a layer's operator to the layer, which is named by its weight.

    The runtime names a fused operator after the first operator or after the output of the last one. So a layer owns the
    operator with its weight, and the following ones that use its output and have no matrix of their own.
    """
    model = onnx.load(str(path), load_external_data=False)
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) >= 2}
    owner: dict[str, str] = {}  # tensor or operator -> layer
    for node in model.graph.node:
        matrix = next((name for name in node.input[1:] if name in weights), None)
        if matrix is not None:
            layer = matrix.rpartition(".")[0] or matrix
        elif node.op_type in FUSED and node.input and node.input[0] in owner:
            layer = owner[node.input[0]]
        else:
            continue
        owner.update(dict.fromkeys((node.name, *node.output), layer))
    return owner
