"""Rules of products: matrix products, einsum and attention.

A product with a weight is a linear layer. Of two activations, heads may go; what is summed over may not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from compressor.core import Layer
from compressor.graph.arithmetic import operands
from compressor.graph.einsum import Einsum
from compressor.graph.rules.layers import use_weight
from compressor.graph.trace import Call, Ref
from compressor.graph.tracker import ChannelTracker, Dim, Dims, Product


def matmul(provenance: ChannelTracker, call: Call) -> None:
    """(..., M, I) @ (..., I, N). A weight among the two reads and writes channels as a linear layer's does; of two
    activations, what is summed over stays."""
    (a, b), (out,) = operands(call), call.outs
    a_dims, b_dims = provenance.dims(a), provenance.dims(b)
    rows = a_dims[-2:-1] if len(a_dims) > 1 else ()
    columns = b_dims[-1:] if len(b_dims) > 1 else ()
    rank = len(out.shape) - len(rows) - len(columns)
    lead = _batch(provenance, call, rank, [(a_dims[:-2], a.shape[:-2]), (b_dims[:-2], b.shape[:-2])])
    inner = a_dims[-1], b_dims[-2] if len(b_dims) > 1 else b_dims[-1]
    learnt = a.uid in provenance.learned, b.uid in provenance.learned
    if not any(learnt):
        for dim in inner:
            provenance.freeze(dim, call, "summed over without weights")
    else:
        provenance.join(*inner, call, "reads fixed channels")
        provenance.role(inner[learnt.index(True)], "reader")
    if learnt == (True, True):
        provenance.role(inner[1], "writer")  # W + B A: A writes what B reads
    elif learnt == (False, True):
        _layer(provenance, call, b, (*lead, *rows), inner[0], columns)
    elif learnt == (True, False):
        _layer(provenance, call, a, (*lead, *columns), inner[1], rows)
    if not any(learnt) or all(learnt) or len((a, b)[learnt.index(True)].shape) != 2:
        provenance.products.append(Product((*lead, *rows, *columns, inner[0]), (*out.shape, a.shape[-1])))
    provenance.set(out, (*lead, *rows, *columns))


def _layer(
    provenance: ChannelTracker, call: Call, weight: Ref, at: Dims, inputs: Dim | None, outputs: Sequence[Dim | None]
) -> None:
    """A linear layer written as a product; one matrix is noted as a weight at work."""
    for dim in outputs:
        provenance.role(dim, "writer")
    if len(weight.shape) == 2:
        out = call.outs[0]
        writes = 1 if weight is operands(call)[1] else 0
        places = [size for axis, size in enumerate(out.shape) if axis != len(out.shape) - 2 + writes]
        shape = weight.shape
        layer = Layer("linear", inputs=shape[1 - writes], outputs=shape[writes], places=(math.prod(places),))
        use_weight(provenance, weight, provenance.dims(weight), at, places, layer, inputs, outputs[0])


def add_product(provenance: ChannelTracker, call: Call) -> None:
    """addmm and baddbmm: a product, and a bias or a tensor of its shape added to it."""
    matmul(provenance, call)
    added, (out,) = call.args["self"], call.outs
    if added.uid in provenance.blank:
        return
    dims, more = list(provenance.dims(out)), provenance.dims(added)
    for index in range(-len(more), 0):
        if added.shape[index] > 1:
            dims[index] = provenance.join(dims[index], more[index], call, "added to a tensor of fixed size")
    provenance.set(out, dims)


def einsum(provenance: ChannelTracker, call: Call) -> None:
    """Dimensions of one index are one. What is summed over needs a weight that reads it; a weight writes the rest."""
    form, (out,) = Einsum.of(call), call.outs
    dims: dict[str, Dim | None] = {}
    owners: dict[str, list[tuple[Dim | None, bool]]] = defaultdict(list)
    for ref, indices in zip(form.operands, form.inputs, strict=True):
        for index, dim, size in zip(indices, provenance.dims(ref), ref.shape, strict=True):
            if size > 1:
                known = provenance.join(dims[index], dim, call, "meets a fixed index") if index in dims else dim
                dims[index] = known
                owners[index].append((dim, ref.uid in provenance.learned))
    for index, meeting in owners.items():
        moving = any(not learnt for _, learnt in meeting)
        weights = [dim for dim, learnt in meeting if learnt]
        if index not in form.output and not weights:
            provenance.freeze(dims[index], call, "summed over without weights")
        for dim in weights:
            if index not in form.output:
                provenance.role(dim, "reader")
            elif not moving:
                provenance.role(dim, "writer")
    sizes = form.sizes()
    for indices in form.meeting():
        product = Product(tuple(dims.get(index) for index in indices), tuple(sizes[index] for index in indices))
        provenance.products.append(product)
    provenance.set(out, [dims.get(index) for index in form.output])


def attention(provenance: ChannelTracker, call: Call) -> None:
    """softmax(q k^T / sqrt(E)) v over (..., heads, positions, E): heads go together, v's width goes through."""
    (out, *rest) = call.outs
    leading: list[tuple[Dims, Sequence[int]]] = []
    for name, ref in call.args.items():
        if isinstance(ref, Ref):
            dims = provenance.dims(ref)
            for dim in dims[-2:-1] if name == "value" else dims[-2:]:
                provenance.freeze(dim, call, "attention mixes positions and the width of q and k")
            leading.append((dims[:-2], ref.shape[:-2]))
    lead = _batch(provenance, call, len(out.shape) - 2, leading)
    query, key, value = (call.args[name] for name in ("query", "key", "value"))
    width, scores = provenance.dims(value)[-1], (*out.shape[:-1], key.shape[-2])
    provenance.products.append(Product((*lead, None, None, None), (*scores, query.shape[-1])))
    provenance.products.append(Product((*lead, None, None, width), (*scores, value.shape[-1])))
    provenance.set(out, (*lead, None, width))
    for ref in rest:
        provenance.set(ref, (None,) * len(ref.shape))


def _batch(
    provenance: ChannelTracker, call: Call, rank: int, operands: Sequence[tuple[Dims, Sequence[int]]]
) -> list[Dim | None]:
    """The leading dimensions of a product: heads, aligned at the right as broadcasting aligns them, are tied.

    Grouped queries: several heads in a row share one key and value, and go with it.
    """
    lead: list[Dim | None] = [None] * rank
    for index in range(-1, -rank - 1, -1):
        there = [(dims[index], shape[index]) for dims, shape in operands if len(shape) >= -index and shape[index] > 1]
        if any(dim is not None for dim, _ in there):
            most = max(size for _, size in there)
            meeting = [
                dim if dim is None or size == most else Dim(np.repeat(dim.atoms, most // size)) for dim, size in there
            ]
            lead[index] = meeting[0]
            for other in meeting[1:]:
                lead[index] = provenance.join(lead[index], other, call, "heads meet a tensor of fixed size")
    return lead


RULES: dict[str, Callable[[ChannelTracker, Call], None]] = {
    **{f"aten.{name}": matmul for name in ("matmul", "mm", "bmm", "mv")},
    **{f"aten.{name}": add_product for name in ("addmm", "baddbmm")},
    "aten.einsum": einsum,
    "aten.scaled_dot_product_attention": attention,
}
