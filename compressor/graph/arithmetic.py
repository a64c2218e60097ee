"""Multiply-adds of a trace, operator by operator: what they are spent on, counted from shapes alone.

Counted are convolutions and linear layers, however they are written (`addmm`, `x @ weight`, `einsum`), recurrent
layers, and products of two activations, as in attention. Norms, activation functions, sums and pooling are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch.utils._pytree import tree_leaves

from compressor.graph.einsum import Einsum
from compressor.graph.trace import Call, Ref, Trace


@dataclass(frozen=True, slots=True)
class CountedCall:
    """Multiply-adds of one call. `weight`: that of a convolution or linear layer, with so many `outputs`."""

    call: Call
    macs: int
    weight: Ref | None = None
    outputs: int = 0


def counted_calls(trace: Trace) -> Iterator[CountedCall]:
    """The calls that multiply and add, in the order in which they run."""
    weights = learned(trace)
    for call in trace.calls:
        name = call.op.removeprefix("aten.").removeprefix("torchvision.")
        if name in _LAYERS:
            yield _layer(call, name)
        elif name in _MATMULS:
            yield _matmul(call, weights)
        elif name in _RECURRENT:
            yield CountedCall(call, sum(map(math.prod, recurrent_weights(call))) * _rows(recurrent_input(call)))
        elif name in _OTHERS:
            yield _OTHERS[name](call, weights)


def learned(trace: Trace) -> frozenset[int]:
    """The uids of parameters and buffers and of all that is computed from them alone, such as a transposed weight."""
    inputs = {ref.uid for ref in trace.inputs}
    from_weights = set(trace.tensors)
    for call in trace.calls:
        before, after = {ref.uid for ref in call.refs()}, {ref.uid for ref in call.outs}
        if before & inputs:
            inputs |= after
        elif before & from_weights:
            from_weights |= after
    return frozenset(from_weights - inputs)


def operands(call: Call) -> tuple[Ref, Ref]:
    """The two tensors that a matrix product multiplies."""
    names = ("tensor1", "mat1", "batch1", "self"), ("tensor2", "mat2", "batch2", "other", "vec")
    a, b = (next(call.args[name] for name in side if name in call.args) for side in names)
    return a, b


def recurrent_input(call: Call) -> Ref:
    """The sequence that a recurrent layer reads, or the step that a cell reads."""
    ref: Ref = call.args.get("input") or call.args["data"]
    return ref


def recurrent_weights(call: Call) -> list[tuple[int, ...]]:
    """The shapes of the matrices of a recurrent layer or cell, which are all applied at every step."""
    refs = call.args.get("params") or [call.args["w_ih"], call.args["w_hh"]]
    return [ref.shape for ref in tree_leaves(refs) if len(ref.shape) == 2]


def _layer(call: Call, name: str) -> CountedCall:
    """Convolution: product of the weight's sizes times output positions (input positions when transposed). Linear:
    product of the weight's sizes times rows."""
    x, weight, out = call.args["input"], call.args["weight"], call.outs[0]
    channels = -1 if name == "linear" else 1 - len(weight.shape)
    positions = list(x.shape if "transpose" in name else out.shape)
    del positions[channels]
    return CountedCall(call, math.prod(weight.shape) * math.prod(positions), weight, out.shape[channels])


def _matmul(call: Call, weights: frozenset[int]) -> CountedCall:
    """(..., M, I) @ (..., I, N): M N I. One learnt matrix among the two makes it a linear layer."""
    a, b = operands(call)
    macs = math.prod(call.outs[0].shape) * a.shape[-1]
    layer = [ref for ref in (a, b) if ref.uid in weights and len(ref.shape) == 2]
    if len(layer) != 1 or {a.uid, b.uid} <= weights:
        return CountedCall(call, macs)
    return CountedCall(call, macs, layer[0], layer[0].shape[-1 if layer[0] is b else 0])


def _attention(call: Call, _: frozenset[int]) -> CountedCall:
    """Queries times keys, and what comes of it times values."""
    query, key, value = (call.args[name] for name in ("query", "key", "value"))
    return CountedCall(call, math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


def _einsum(call: Call, _: frozenset[int]) -> CountedCall:
    """Two operands after the other: the product of the sizes of all indices that meet."""
    return CountedCall(call, sum(map(math.prod, Einsum.of(call).steps())))


def _bilinear(call: Call, _: frozenset[int]) -> CountedCall:
    """y_o = x^T W_o z: every weight once a row, and every output once more for each entry of z."""
    weight, rows = call.args["weight"], _rows(call.args["input1"])
    return CountedCall(call, rows * (math.prod(weight.shape) + weight.shape[0] * weight.shape[2]))


def _rows(ref: Ref) -> int:
    return math.prod(ref.shape[:-1])


_LAYERS = ("linear", "deform_conv2d", *(f"conv{way}{n}d" for way in ("", "_transpose") for n in (1, 2, 3)))
_MATMULS = ("matmul", "mm", "bmm", "mv", "addmm", "baddbmm")
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
_OTHERS: dict[str, Callable[[Call, frozenset[int]], CountedCall]] = {
    "scaled_dot_product_attention": _attention,
    "einsum": _einsum,
    "bilinear": _bilinear,
}
