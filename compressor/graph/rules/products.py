"""Rules of products: matrix products, einsum and attention.

A product with a weight is a linear layer. In a product of two activations, heads may be removed; the dimension that is
summed over may not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from compressor.core import Layer
from compressor.graph.arithmetic import operands
from compressor.graph.einsum import Einsum
from compressor.graph.rules.base import OperatorRule
from compressor.graph.rules.linear import apply_weight
from compressor.graph.trace import Call, Ref
from compressor.graph.tracked import Dim, Dims, Product
from compressor.graph.tracker import ChannelTracker


def _matmul(tracker: ChannelTracker, call: Call) -> None:
    """(..., M, I) @ (..., I, N). A weight among the two reads and writes channels as a linear layer does.

    In a product of two activations, the dimension that is summed over is frozen.
    """
    (a, b), (out,) = operands(call), call.outs
    a_dims, b_dims = tracker.dims(a), tracker.dims(b)
    rows = a_dims[-2:-1] if len(a_dims) > 1 else ()
    columns = b_dims[-1:] if len(b_dims) > 1 else ()
    rank = len(out.shape) - len(rows) - len(columns)
    lead = _batch(tracker, call, rank, [(a_dims[:-2], a.shape[:-2]), (b_dims[:-2], b.shape[:-2])])
    inner = a_dims[-1], b_dims[-2] if len(b_dims) > 1 else b_dims[-1]
    learnt = a.uid in tracker.learned, b.uid in tracker.learned
    if not any(learnt):
        for dim in inner:
            tracker.freeze(dim, call, "summed over without weights")
    else:
        tracker.tie_or_freeze(*inner, call, "reads fixed channels")
        tracker.set_role(inner[learnt.index(True)], "reader")
    if learnt == (True, True):
        tracker.set_role(inner[1], "writer")  # W + B A: A writes what B reads
    elif learnt == (False, True):
        _layer(tracker, call, b, (*lead, *rows), inner[0], columns)
    elif learnt == (True, False):
        _layer(tracker, call, a, (*lead, *columns), inner[1], rows)
    if not any(learnt) or all(learnt) or len((a, b)[learnt.index(True)].shape) != 2:
        tracker.products.append(Product((*lead, *rows, *columns, inner[0]), (*out.shape, a.shape[-1])))
    tracker.set_dims(out, (*lead, *rows, *columns))


def _layer(
    tracker: ChannelTracker, call: Call, weight: Ref, at: Dims, inputs: Dim | None, outputs: Sequence[Dim | None]
) -> None:
    """A linear layer written as a product; one matrix is noted as a weight at work."""
    for dim in outputs:
        tracker.set_role(dim, "writer")
    if len(weight.shape) == 2:
        out = call.outs[0]
        writes = 1 if weight is operands(call)[1] else 0
        places = [size for axis, size in enumerate(out.shape) if axis != len(out.shape) - 2 + writes]
        shape = weight.shape
        layer = Layer(
            "linear", in_channels=shape[1 - writes], out_channels=shape[writes], spatial_shape=(math.prod(places),)
        )
        apply_weight(tracker, weight, tracker.dims(weight), at, places, layer, inputs, outputs[0])


def _add_product(tracker: ChannelTracker, call: Call) -> None:
    """addmm and baddbmm: a product, and a bias or a tensor of its shape added to it."""
    _matmul(tracker, call)
    added, (out,) = call.args["self"], call.outs
    if added.uid in tracker.blank:
        return
    dims, more = list(tracker.dims(out)), tracker.dims(added)
    for index in range(-len(more), 0):
        if added.shape[index] > 1:
            dims[index] = tracker.tie_or_freeze(dims[index], more[index], call, "added to a tensor of fixed size")
    tracker.set_dims(out, dims)


def _einsum(tracker: ChannelTracker, call: Call) -> None:
    """Dimensions of one index are one. What is summed over needs a weight that reads it; a weight writes the rest."""
    form, (out,) = Einsum.of(call), call.outs
    dims: dict[str, Dim | None] = {}
    owners: dict[str, list[tuple[Dim | None, bool]]] = defaultdict(list)
    for ref, indices in zip(form.operands, form.inputs, strict=True):
        for index, dim, size in zip(indices, tracker.dims(ref), ref.shape, strict=True):
            if size > 1:
                known = tracker.tie_or_freeze(dims[index], dim, call, "meets a fixed index") if index in dims else dim
                dims[index] = known
                owners[index].append((dim, ref.uid in tracker.learned))
    for index, meeting in owners.items():
        moving = any(not learnt for _, learnt in meeting)
        weights = [dim for dim, learnt in meeting if learnt]
        if index not in form.output and not weights:
            tracker.freeze(dims[index], call, "summed over without weights")
        for dim in weights:
            if index not in form.output:
                tracker.set_role(dim, "reader")
            elif not moving:
                tracker.set_role(dim, "writer")
    sizes = form.sizes()
    for indices in form.meeting():
        product = Product(tuple(dims.get(index) for index in indices), tuple(sizes[index] for index in indices))
        tracker.products.append(product)
    tracker.set_dims(out, [dims.get(index) for index in form.output])


def _attention(tracker: ChannelTracker, call: Call) -> None:
    """softmax(q k^T / sqrt(E)) v over (..., heads, positions, E): heads are removed together, v's width is free."""
    out, *_ = call.outs
    leading: list[tuple[Dims, Sequence[int]]] = []
    for name, ref in call.args.items():
        if isinstance(ref, Ref):
            dims = tracker.dims(ref)
            for dim in dims[-2:-1] if name == "value" else dims[-2:]:
                tracker.freeze(dim, call, "attention mixes positions and the width of q and k")
            leading.append((dims[:-2], ref.shape[:-2]))
    lead = _batch(tracker, call, len(out.shape) - 2, leading)
    query, key, value = (call.args[name] for name in ("query", "key", "value"))
    width, scores = tracker.dims(value)[-1], (*out.shape[:-1], key.shape[-2])
    tracker.products.append(Product((*lead, None, None, None), (*scores, query.shape[-1])))
    tracker.products.append(Product((*lead, None, None, width), (*scores, value.shape[-1])))
    tracker.set_dims(out, (*lead, None, width))


def _batch(
    tracker: ChannelTracker, call: Call, rank: int, operands: Sequence[tuple[Dims, Sequence[int]]]
) -> list[Dim | None]:
    """Tie the leading dimensions of a product, heads, aligned at the right as in broadcasting.

    Grouped queries: several heads in a row share one key and value, and are removed with it.
    """
    lead: list[Dim | None] = [None] * rank
    for index in range(-1, -rank - 1, -1):
        there = [(dims[index], shape[index]) for dims, shape in operands if len(shape) >= -index and shape[index] > 1]
        if any(dim is not None for dim, _ in there):
            most = max(size for _, size in there)
            meeting = [
                dim if dim is None or size == most else Dim(np.repeat(dim.ids, most // size)) for dim, size in there
            ]
            lead[index] = meeting[0]
            for other in meeting[1:]:
                lead[index] = tracker.tie_or_freeze(lead[index], other, call, "heads meet a tensor of fixed size")
    return lead


RULES: dict[str, OperatorRule] = {
    **{f"aten.{name}": _matmul for name in ("matmul", "mm", "bmm", "mv")},
    **{f"aten.{name}": _add_product for name in ("addmm", "baddbmm")},
    "aten.einsum": _einsum,
    "aten.scaled_dot_product_attention": _attention,
}
