"""Which tensors have their entries read, and not their sizes alone."""

from __future__ import annotations

from compressor.graph.trace import Call, Ref, Trace

_LIKE = frozenset(f"aten.{name}_like" for name in ("zeros", "ones", "full", "empty", "rand", "randn", "randint"))
_NEW = frozenset(f"aten.new_{name}" for name in ("zeros", "ones", "full", "empty"))
_AS = frozenset(f"aten.{name}_as" for name in ("expand", "view", "reshape", "type"))


def live_tensors(trace: Trace) -> frozenset[int]:
    """The uids of tensors that an output is computed from, that are written into memory, or that code looks into."""
    live = {ref.uid for ref in trace.outputs}
    for call in reversed(trace.calls):
        if call.writes or not call.outs or any(ref.uid in live for ref in call.outs):
            live |= {ref.uid for ref in call.refs()} - _only_measured(call)
    return frozenset(live)


def _only_measured(call: Call) -> set[int]:
    """The operand whose shape or type alone is taken."""
    name = "self" if call.op in _LIKE | _NEW else "other" if call.op in _AS else None
    measured = call.args.get(name) if name else None
    return {measured.uid} if isinstance(measured, Ref) else set()
