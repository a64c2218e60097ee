"""Rules of the operators that join tensors, take parts of them, pad, roll or write into them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compressor.graph.rules.base import OperatorRule, aten_rules, freeze_inputs, tie_all
from compressor.graph.trace import Call, Ref
from compressor.graph.tracked import Blank, Dim
from compressor.graph.tracker import ChannelTracker


def _cat(tracker: ChannelTracker, call: Call) -> None:
    """Ids one after the other along `dim`; tied across the operands everywhere else."""
    refs, (out,) = [ref for ref in call.refs() if ref.shape != (0,)], call.outs
    at = call.args["dim"] % len(out.shape)
    dims: list[Dim | None] = []
    for index, size in enumerate(out.shape):
        parts = [tracker.dims(ref)[index] for ref in refs]
        if index != at:
            dims.append(tie_all(tracker, call, parts) if size > 1 else None)
        else:
            parts = [_blank_part(tracker, ref, at, part) for ref, part in zip(refs, parts, strict=True)]
            if not any(parts):
                dims.append(None)
                continue
            dims.append(_joined(tracker, call, parts, [ref.shape[index] for ref in refs]))
    tracker.set_dims(out, dims)


def _blank_part(tracker: ChannelTracker, ref: Ref, axis: int, dim: Dim | None) -> Dim | None:
    """The channels of an operand: those of a blank one, such as a first state, are what is tied to them later."""
    if dim is not None or ref.uid not in tracker.blank or ref.shape[axis] == 1:
        return dim
    channels = tracker.fresh(ref.shape[axis])
    return channels if tracker.fill_blank(ref, axis, channels) else None


def _stack(tracker: ChannelTracker, call: Call) -> None:
    """A new, fixed dimension; everything else is tied across the operands."""
    refs, (out,) = call.refs(), call.outs
    at = call.args["dim"] % len(out.shape)
    columns = zip(*(tracker.dims(ref) for ref in refs), strict=True)
    dims = [tie_all(tracker, call, parts) for parts in columns]
    tracker.set_dims(out, (*dims[:at], None, *dims[at:]))


def _joined(tracker: ChannelTracker, call: Call, parts: Sequence[Dim | None], sizes: Sequence[int]) -> Dim:
    ids = []
    for part, size in zip(parts, sizes, strict=True):
        if part is None:
            part = tracker.fresh(size)
            tracker.freeze(part, call, "concatenated with fixed channels")
        ids.append(part.ids)
    return Dim(np.concatenate(ids))


def _split_axis(tracker: ChannelTracker, call: Call) -> None:
    """chunk and split. Equal parts lose the same places; unequal parts need sizes that the module stores."""
    x, parts = call.args["self"], call.outs
    at = call.args["dim"] % len(x.shape)
    dims = tracker.dims(x)
    channels = dims[at]
    pieces: list[Dim | None] = [None] * len(parts)
    if channels is not None:
        first, *others = pieces_ids = np.split(channels.ids, np.cumsum([part.shape[at] for part in parts])[:-1])
        pieces = [Dim(ids) if len(ids) > 1 else None for ids in pieces_ids]
        if not others or _stored_sizes(tracker, call, [Dim(ids) for ids in pieces_ids]):
            pass
        elif len(first) == 1 or any(len(other) != len(first) for other in others):
            tracker.freeze(channels, call, "split into parts whose sizes the module does not store")
        else:
            for other in others:
                tracker.tie(first, other)
            tracker.bind_size_attributes(call, (channels, Dim(first)))
    for part, piece in zip(parts, pieces, strict=True):
        tracker.set_dims(part, (*dims[:at], piece, *dims[at + 1 :]))


def _stored_sizes(tracker: ChannelTracker, call: Call, pieces: Sequence[Dim]) -> bool:
    """Whether the module stores every size of an explicit split, as a list or one by one; then they follow.

    Parts of one size may share one attribute. They lose the same places, so that they stay as large as each other.
    """
    sizes = [len(piece) for piece in pieces]
    if call.args.get("split_sizes", call.args.get("split_size")) != sizes:
        return False
    stored = vars(tracker.modules[call.module])
    for name, value in stored.items():
        if isinstance(value, list | tuple) and list(value) == sizes:
            return all(tracker.bind_attribute(call, name, piece, index) for index, piece in enumerate(pieces))
    names = {size: [name for name, value in stored.items() if type(value) is int and value == size] for size in sizes}
    if len(names) == 1 or not all(names.values()):
        return False
    for piece in pieces:
        tracker.tie(piece.ids, pieces[sizes.index(len(piece))].ids)
    return all(tracker.bind_attribute(call, name, piece) for piece in pieces for name in names[len(piece)])


def _gather(tracker: ChannelTracker, call: Call) -> None:
    """slice, narrow, select and unbind: free along fixed dimensions; along channels only up to a stored size."""
    x, rank = call.args["self"], len(call.args["self"].shape)
    at = call.args.get("dim", 0) % rank
    dims = tracker.dims(x)
    for out in call.outs:
        if x.uid in tracker.blank:
            axes = [None if axis == at and out.shape != x.shape else axis for axis in range(rank)]
            axes = axes if len(out.shape) == rank else axes[:at] + axes[at + 1 :]
            tracker.blank[out.uid] = Blank(call, tracker.interpretation, x, tuple(axes))
        if out.shape == x.shape:
            tracker.set_dims(out, dims)
            continue
        part = _sliced(tracker, call, dims[at], x.shape[at]) if call.op == "aten.slice" else None
        if part is None and not _only_shape_read(tracker, call, out):
            tracker.freeze(dims[at], call, "a fixed part of the channels is taken")
        kept = dims[at + 1 :] if len(out.shape) < rank else (part, *dims[at + 1 :])
        tracker.set_dims(out, (*dims[:at], *kept))


def _only_shape_read(tracker: ChannelTracker, call: Call, out: Ref) -> bool:
    """Whether only the shape of the first or last channel is read, as by `zeros_like(x[:, :1])`; it always exists."""
    single = len(out.shape) < len(call.args["self"].shape) or out.shape[call.args["dim"]] == 1
    begin = call.args.get("start", call.args.get("index")) or 0
    return single and begin in (0, -1) and len(call.outs) == 1 and out.uid not in tracker.live


def _sliced(tracker: ChannelTracker, call: Call, dim: Dim | None, size: int) -> Dim | None:
    """x[:n] or x[n:] where the module stores n, which then follows; None for other slices."""
    begin, end = call.args["start"] or 0, call.args["end"]
    end = size if end is None else min(end, size)
    begin, end = begin + size * (begin < 0), end + size * (end < 0)
    at = begin or end
    if dim is None or call.args["step"] != 1 or (begin and end != size) or end - begin < 2:
        return None
    stored = vars(tracker.modules[call.module]).items()
    name = next((name for name, value in stored if type(value) is int and value == at), None)
    if name is None or not tracker.bind_attribute(call, name, Dim(dim.ids[:at])):
        return None
    return Dim(dim.ids[begin:end])


def _index(tracker: ChannelTracker, call: Call) -> None:
    """x[..., indices, ...]: free along fixed dimensions, freezing along channels."""
    x, (out,) = call.args["self"], call.outs
    plan = _indexed(call)
    dims = tracker.dims(x)
    if plan is None:
        freeze_inputs(tracker, call, "indexed in a way that has no rule")
        tracker.set_dims(out, (None,) * len(out.shape))
        return
    begin, end = plan
    for dim in dims[begin:end]:
        tracker.freeze(dim, call, "a fixed part of the channels is taken")
    middle = len(out.shape) - len(dims) + end - begin
    tracker.set_dims(out, (*dims[:begin], *(None,) * middle, *dims[end:]))


def _index_put(tracker: ChannelTracker, call: Call) -> None:
    """x[..., indices, ...] = values: dimensions that are not indexed are tied; a blank x takes those of the values."""
    x, values, (out,) = call.args["self"], call.args["values"], call.outs
    plan = _indexed(call)
    if plan is None or not isinstance(values, Ref):
        freeze_inputs(tracker, call, "written in a way that has no rule")
        tracker.set_dims(out, tracker.dims(x))
        return
    begin, end = plan
    dims, written = list(tracker.dims(x)), tracker.dims(values)
    for dim in dims[begin:end]:
        tracker.freeze(dim, call, "a fixed part of the channels is written")
    after = list(range(end - len(dims), 0))
    for at in after:
        if len(values.shape) >= -at and values.shape[at] > 1:
            dims[at] = _written(tracker, call, x, at, written[at])
    for dim in written[: len(written) - len(after)]:
        tracker.freeze(dim, call, "channels used as places")
    tracker.set_dims(x, dims)
    tracker.set_dims(out, dims)


def _indexed(call: Call) -> tuple[int, int] | None:
    """The run of dimensions an index takes, [begin, end); None if it is not one run of integer indices."""
    indices = call.args["indices"]
    used = [axis for axis, index in enumerate(indices) if index is not None]
    if not used or used != list(range(used[0], used[-1] + 1)):
        return None
    ranks = {len(indices[at].shape) for at in used}
    shape = call.args["self"].shape
    if len(ranks) != 1 and 0 not in ranks:
        return None
    if len(used) == 1 and max(ranks) > 1 and indices[used[0]].shape == shape[used[0] : used[0] + max(ranks)]:
        return used[0], used[0] + max(ranks)  # a mask over several dimensions
    return used[0], used[-1] + 1


def _written(tracker: ChannelTracker, call: Call, into: Ref, axis: int, source: Dim | None) -> Dim | None:
    if tracker.fill_blank(into, axis, source):
        return source
    return tracker.tie_or_freeze(tracker.dims(into)[axis], source, call, "written into a tensor of fixed size")


def _roll(tracker: ChannelTracker, call: Call) -> None:
    """roll and flip move entries along `dims`: free along positions, freezing along channels."""
    x, (out,) = call.args["self"], call.outs
    dims = tracker.dims(x)
    for axis in call.args["dims"] or range(len(dims)):
        tracker.freeze(dims[axis], call, "channels moved by a fixed amount")
    tracker.set_dims(out, dims)


def _pad(tracker: ChannelTracker, call: Call) -> None:
    """Constant padding. Padded channels are fresh ones; an attribute of the module holds how many of them are kept."""
    x, (out,) = call.args["self"], call.outs
    amounts = call.args["pad"]
    dims = list(tracker.dims(x))
    for pair in range(len(amounts) // 2):
        axis, (left, right) = len(dims) - 1 - pair, amounts[2 * pair : 2 * pair + 2]
        dim = dims[axis]
        if dim is None or (left == 0 and right == 0):
            continue
        if left < 0 or right < 0 or list(getattr(tracker.modules[call.module], "padding", ())) != list(amounts):
            tracker.freeze(dim, call, "channels padded by a fixed amount")
            dims[axis] = None
            continue
        before, after = tracker.fresh(left), tracker.fresh(right)
        tracker.bind_attribute(call, "padding", before, 2 * pair)
        tracker.bind_attribute(call, "padding", after, 2 * pair + 1)
        dims[axis] = Dim(np.concatenate([before.ids, dim.ids, after.ids]))
    tracker.set_dims(out, dims)


def _copy_into(tracker: ChannelTracker, call: Call) -> None:
    """Writing into a tensor ties both; a fixed tensor fixes what is written."""
    into, source, (out,) = call.args["self"], call.args["src"], call.outs
    dims = list(tracker.dims(into))
    for index in range(-len(source.shape), 0):
        if source.shape[index] > 1:
            dims[index] = _written(tracker, call, into, index, tracker.dims(source)[index])
    tracker.set_dims(into, dims)
    tracker.set_dims(out, dims)


TAKES_SIZES = (_split_axis, _gather, _pad, _index_put, _copy_into)
"""Rules of operators that take sizes or positions, which code may have fixed."""

RULES: dict[str, OperatorRule] = {
    **aten_rules(_cat, "cat concat concatenate"),
    **aten_rules(_stack, "stack"),
    **aten_rules(_split_axis, "chunk split split_with_sizes"),
    **aten_rules(_gather, "slice narrow select unbind"),
    **aten_rules(_index, "index"),
    **aten_rules(_index_put, "index_put index_put_"),
    **aten_rules(_roll, "roll flip"),
    **aten_rules(_pad, "constant_pad_nd pad"),
    **aten_rules(_copy_into, "copy_"),
}
