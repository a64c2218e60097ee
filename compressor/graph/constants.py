"""Tensors that hold one number everywhere, such as the first state of a recurrence.

What such a tensor is combined with decides its size, as with a dimension of one entry that is expanded. If code gives
it a size of its own, a trial removal fails.
"""

from __future__ import annotations

from compressor.graph.trace import Trace

_MAKERS = frozenset(f"aten.{way}{name}" for way in ("", "new_") for name in ("zeros", "ones", "full"))


def constants(trace: Trace) -> frozenset[int]:
    """The uids of tensors that an operator fills with one number, and that no operator writes into later."""
    made, written = set[int](), set[int]()
    root: dict[int, int] = {}  # uid -> that of the tensor whose memory it lies in
    for call in trace.calls:
        refs = call.refs()
        if call.op in _MAKERS:
            made |= {ref.uid for ref in call.outs}
        if call.view and refs:
            first = root.get(refs[0].uid, refs[0].uid)
            root |= {ref.uid: first for ref in call.outs if ref.uid != first}
        if call.writes:
            written |= {root.get(ref.uid, ref.uid) for ref in call.outs or refs}
    return frozenset(made - written)
