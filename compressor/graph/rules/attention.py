"""Rules of products of activations: matrix products and attention. Heads may go; what is summed over may not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compressor.graph.trace import Call, Ref
from compressor.graph.tracker import ChannelTracker, Dim, Dims


def matmul(provenance: ChannelTracker, call: Call) -> None:
    """(..., M, I) @ (..., I, N). Products of two activations are not weights: a channel summed over stays."""
    a, b = call.args.get("self") or call.args["tensor1"], call.args.get("other") or call.args.get("mat2")
    b = b or call.args["tensor2"]
    (out,) = call.outs
    a_dims, b_dims = provenance.dims(a), provenance.dims(b)
    for dim in (a_dims[-1], b_dims[-2] if len(b_dims) > 1 else b_dims[-1]):
        provenance.freeze(dim, call, "summed over without weights")
    rows = a_dims[-2:-1] if len(a_dims) > 1 else ()
    columns = b_dims[-1:] if len(b_dims) > 1 else ()
    rank = len(out.shape) - len(rows) - len(columns)
    lead = _batch(provenance, call, rank, [(a_dims[:-2], a.shape[:-2]), (b_dims[:-2], b.shape[:-2])])
    provenance.set(out, (*lead, *rows, *columns))


def attention(provenance: ChannelTracker, call: Call) -> None:
    """softmax(q k^T / sqrt(E)) v over (..., heads, positions, E): heads go together, v's width goes through."""
    (out, *rest) = call.outs
    lead: list[tuple[Dims, Sequence[int]]] = []
    for name, ref in call.args.items():
        if isinstance(ref, Ref):
            dims = provenance.dims(ref)
            for dim in dims[-2:-1] if name == "value" else dims[-2:]:
                provenance.freeze(dim, call, "attention mixes positions and the width of q and k")
            lead.append((dims[:-2], ref.shape[:-2]))
    width = provenance.dims(call.args["value"])[-1]
    provenance.set(out, (*_batch(provenance, call, len(out.shape) - 2, lead), None, width))
    for ref in rest:
        provenance.set(ref, (None,) * len(ref.shape))


def _batch(
    provenance: ChannelTracker, call: Call, rank: int, operands: Sequence[tuple[Dims, Sequence[int]]]
) -> list[Dim | None]:
    """The leading dimensions of a product: heads, aligned at the right as broadcasting aligns them, are tied."""
    lead: list[Dim | None] = [None] * rank
    for index in range(-1, -rank - 1, -1):
        meeting = [dims[index] for dims, shape in operands if len(shape) >= -index and shape[index] > 1]
        if any(dim is not None for dim in meeting):
            sizes = {shape[index] for _, shape in operands if len(shape) >= -index and shape[index] > 1}
            if len(sizes) > 1:  # grouped queries: several heads share one key
                for dim in meeting:
                    provenance.freeze(dim, call, "heads shared by several queries")
                continue
            first, *others = meeting
            for other in others:
                first = provenance.join(first, other, call, "heads meet a tensor of fixed size")
            lead[index] = first
    return lead


RULES: dict[str, Callable[[ChannelTracker, Call], None]] = {
    **{f"aten.{name}": matmul for name in ("matmul", "mm", "bmm")},
    "aten.scaled_dot_product_attention": attention,
}
