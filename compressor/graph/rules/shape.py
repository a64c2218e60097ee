"""Rules of the operators that combine tensors entry by entry, reshape, permute, expand or reduce them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from compressor.graph.rules.base import OperatorRule, aten_rules, axis_of, tie_all
from compressor.graph.trace import Call
from compressor.graph.tracked import Dim, Dims, SizeInterpretation, TakenApart
from compressor.graph.tracker import ChannelTracker
from compressor.layers import source_place


def pointwise(tracker: ChannelTracker, call: Call) -> None:
    """Tie the dimensions that an operator combines entry by entry, with broadcasting.

    Args:
        tracker: Collects the ties.
        call: The call.
    """
    refs = [ref for ref in call.refs() if ref.shape]
    for out in call.outs:
        dims: list[Dim | None] = []
        for index in range(-len(out.shape), 0):
            meeting = [tracker.dims(ref)[index] for ref in refs if len(ref.shape) >= -index and ref.shape[index] > 1]
            dim = tie_all(tracker, call, meeting) if out.shape[index] > 1 else None
            dims.append(_of_all(dim, meeting) if out.uid in tracker.learned else dim)
        tracker.set_dims(out, dims)


def _of_all(dim: Dim | None, meeting: Sequence[Dim | None]) -> Dim | None:
    """Give a dimension of a weight that several parameters make up all of their dimensions as owners."""
    if dim is None:
        return None
    owners = [owner for other in (dim, *meeting) if other is not None for owner in _owners(other)]
    first, *beside = dict.fromkeys(owners) or (None,)
    return replace(dim, owner=first, beside=tuple(beside))


def _owners(dim: Dim) -> tuple[tuple[str, int], ...]:
    return (dim.owner, *dim.beside) if dim.owner else ()


def _like_input(tracker: ChannelTracker, call: Call) -> None:
    """The first operand, or a constant of its shape."""
    first = call.refs()[0]
    for out in call.outs:
        tracker.set_dims(out, tracker.dims(first))
        if first.uid in tracker.blank:
            tracker.blank[out.uid] = tracker.blank[first.uid]


def _reshape(tracker: ChannelTracker, call: Call) -> None:
    """view, reshape, flatten, unflatten, squeeze, unsqueeze: known from the shapes before and after."""
    x, (out,) = call.refs()[0], call.outs
    dims = _reshaped(tracker, call, tracker.dims(x), x.shape, out.shape)
    if x.uid in tracker.learned:  # a weight's dimensions keep their roles
        dims = _with_owners(dims, tracker.dims(x))
    tracker.bind_size_attributes(call, (*tracker.dims(x), *_written_sizes(call, dims)))
    tracker.bind_output_sizes(call, dims)
    tracker.set_dims(out, dims)


def _reshaped(
    tracker: ChannelTracker, call: Call, dims: Dims, before: Sequence[int], after: Sequence[int]
) -> list[Dim | None]:
    result: list[Dim | None] = [None] * len(after)
    for sources, targets in _matching_runs(before, after):
        labelled = [(dim, index) for index in sources if (dim := dims[index]) is not None]
        if not labelled:
            continue
        if len(sources) == len(targets) == 1:
            result[targets[0]] = dims[sources[0]]
            continue
        dim, kept = max(labelled, key=lambda pair: (not pair[0].repeated, pair[0].blocks, len(pair[0])))
        for other, index in labelled:
            if index != kept or other.repeated:
                tracker.freeze(other, call, "merged with a larger dimension of channels")
        if dim.repeated:
            if len(labelled) == len(sources):  # one number everywhere
                for index in targets:
                    result[index] = replace(tracker.fresh(after[index]), repeated=True)
            continue
        spread = [-1 if index == kept else 1 for index in sources]
        table = np.broadcast_to(dim.ids.reshape(spread), [before[index] for index in sources])
        table = table.reshape([after[index] for index in targets])
        axes = _varying_axes(table) or [table.ndim - 1]
        axis = axes[0] if len(axes) == 1 else _split_blocks(tracker, call, table, axes)
        ids = np.moveaxis(table, axis, -1).reshape(-1, table.shape[axis])[0]
        blocks = len(axes) > 1 and tracker.interpretation is SizeInterpretation.REMOVE_BLOCKS
        result[targets[axis]] = Dim(ids, blocks=blocks)
    return result


def _written_sizes(call: Call, dims: Sequence[Dim | None]) -> list[Dim | None]:
    """The dimensions whose sizes a module may store: not one that is inferred and as large as one that is given."""
    sizes = call.args.get("shape", call.args.get("size"))
    if not isinstance(sizes, list | tuple) or len(sizes) != len(dims):
        return list(dims)
    given = {size for size in sizes if size != -1}
    return [dim for dim, size in zip(dims, sizes, strict=True) if size != -1 or dim is None or len(dim) not in given]


def _with_owners(dims: Sequence[Dim | None], sources: Dims) -> list[Dim | None]:
    """Give dimensions of a reshaped weight the owners of the dimensions whose entries they hold."""
    owned = [dim for dim in sources if dim is not None and dim.owner]
    result: list[Dim | None] = []
    for dim in dims:
        source = next((one for one in owned if dim is not None and np.isin(dim.ids, one.ids).all()), None)
        result.append(replace(dim, owner=source.owner, beside=source.beside) if dim and source else dim)
    return result


def _split_blocks(tracker: ChannelTracker, call: Call, table: _Table, axes: Sequence[int]) -> int:
    """Split C = blocks x places: the same places of every block are removed, or blocks. Returns that axis."""
    axis = axes[-1]
    if tracker.interpretation is SizeInterpretation.REMOVE_BLOCKS:
        module, outer = tracker.modules[call.module], axes[:-1]
        stored = {value for value in vars(module).values() if type(value) is int}
        widths = {
            getattr(layer, "in_channels", 0) for layer in module.modules()
        }  # of layers that read what comes of it
        known = [axis for sizes in (stored, widths) for axis in reversed(outer) if table.shape[axis] in sizes]
        axis = known[0] if known else outer[-1]
    rows = np.moveaxis(table, axis, -1).reshape(-1, table.shape[axis])
    tracker.tie(rows, np.broadcast_to(rows[:1], rows.shape))
    in_blocks, places = tracker.interpretation is SizeInterpretation.REMOVE_BLOCKS, table.shape[axes[-1]]
    node = source_place(tracker.modules[call.module]) is not None  # of a graph without modules, which is one scope
    tracker.taken_apart.append(TakenApart(call.where, "" if node else call.module, places, rows[0], in_blocks))
    return axis


def _matching_runs(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions on both sides that hold the same number of entries; ones are left out."""
    left = [index for index, size in enumerate(before) if size != 1]
    right = [index for index, size in enumerate(after) if size != 1]
    while left and right:
        sources, targets = [left.pop(0)], [right.pop(0)]
        a, b = before[sources[0]], after[targets[0]]
        while a != b:
            if a < b:
                sources.append(left.pop(0))
                a *= before[sources[-1]]
            else:
                targets.append(right.pop(0))
                b *= after[targets[-1]]
        yield sources, targets


_Table = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def _varying_axes(table: _Table) -> list[int]:
    """The axes along which the table is not constant."""
    return [axis for axis in range(table.ndim) if (table != table.take([0], axis=axis)).any()]


def _permute_dims(tracker: ChannelTracker, call: Call) -> None:
    x, (out,) = call.args["self"], call.outs
    dims, rank = tracker.dims(x), len(x.shape)
    order = list(range(rank))
    if "dims" in call.args:
        order = [index % rank for index in call.args["dims"]]
    elif rank >= 2:
        a, b = call.args.get("dim0", 0) % rank, call.args.get("dim1", 1) % rank
        if call.op == "aten.mT":
            a, b = rank - 2, rank - 1
        order[a], order[b] = order[b], order[a]
    tracker.set_dims(out, [dims[index] for index in order])


def _expand(tracker: ChannelTracker, call: Call) -> None:
    """Dimensions of one entry become as long as what they are combined with; the others pass through."""
    x, (out,) = call.args["self"], call.outs
    new = len(out.shape) - len(x.shape)
    before, known = (1,) * new + x.shape, (None,) * new + tracker.dims(x)
    dims = [
        replace(tracker.fresh(size), repeated=True) if was < size else dim
        for dim, was, size in zip(known, before, out.shape, strict=True)
    ]
    tracker.bind_size_attributes(call, dims)
    tracker.bind_output_sizes(call, dims)
    tracker.set_dims(out, dims)


def _reduce(tracker: ChannelTracker, call: Call) -> None:
    """mean, sum, max and the like over fixed dimensions; channels that are reduced over are mixed.

    Inputs of a weight that are reduced over stay: what is then subtracted from a weight reaches the removed ones, too.
    """
    if "other" in call.args:  # max and min of two tensors share their name with the reductions
        pointwise(tracker, call)
        return
    x, rank = call.args["self"], len(call.args["self"].shape)
    reduced = call.args.get("dim")
    axes = [reduced] if isinstance(reduced, int) else reduced or range(rank)
    axes = {axis_of(axis, rank) for axis in axes} if rank else set()
    dims = tracker.dims(x)
    for axis in axes:
        if x.uid in tracker.learned:
            tracker.freeze(dims[axis], call, "a weight reduced over its channels")
        else:
            tracker.mark_mixed(dims[axis], call, "reduced over channels")
    for out in call.outs:
        if len(out.shape) == rank:
            tracker.set_dims(out, [None if axis in axes else dim for axis, dim in enumerate(dims)])
        else:
            tracker.set_dims(out, [dim for axis, dim in enumerate(dims) if axis not in axes])


def _along(tracker: ChannelTracker, call: Call) -> None:
    """softmax and the like: the shape is kept, channels along `dim` are mixed."""
    x = call.refs()[0]
    dims = tracker.dims(x)
    tracker.freeze(dims[call.args["dim"]], call, "mixes channels")
    for out in call.outs:
        tracker.set_dims(out, dims)


def _chunk_half(tracker: ChannelTracker, call: Call) -> None:
    """Gated linear unit: the first half times a function of the second, so the same places of both are removed."""
    x, (out,), at = call.args["self"], call.outs, call.args["dim"] % len(call.args["self"].shape)
    dims = list(tracker.dims(x))
    channels = dims[at]
    if channels is not None:
        first, second = np.split(channels.ids, 2)
        tracker.tie(first, second)
        dims[at] = Dim(first) if len(first) > 1 else None
    tracker.set_dims(out, dims)


def _windows(tracker: ChannelTracker, call: Call) -> None:
    """im2col: (B, C, H, W) -> (B, C x window, L), every channel with all of its window."""
    x, (out,) = call.args["self"], call.outs
    dims, rank = tracker.dims(x), len(x.shape)
    for dim in dims[-2:]:
        tracker.freeze(dim, call, "channels used as positions")
    channels = dims[-3]
    spread = None if channels is None else Dim(np.repeat(channels.ids, out.shape[-2] // x.shape[-3]))
    tracker.set_dims(out, (*dims[: rank - 3], spread, None))


def _unfold(tracker: ChannelTracker, call: Call) -> None:
    """Sliding windows along one dimension, which must not be channels; the window dimension comes last."""
    x, (out,), at = call.args["self"], call.outs, axis_of(call.args["dimension"], len(call.args["self"].shape))
    dims = tracker.dims(x)
    tracker.freeze(dims[at], call, "channels used as positions")
    tracker.set_dims(out, (*dims[:at], None, *dims[at + 1 :], None))


def _shuffle_pixels(tracker: ChannelTracker, call: Call) -> None:
    """pixel_shuffle (B, C x r x r, H, W) -> (B, C, H x r, W x r), all r x r of a channel together; and back."""
    x, (out,) = call.args["self"], call.outs
    dims = tracker.dims(x)
    for dim in dims[-2:]:
        tracker.freeze(dim, call, "channels used as positions")
    channels = dims[-3]
    if channels is not None and len(channels) > out.shape[-3]:
        table = channels.ids.reshape(out.shape[-3], -1)
        tracker.tie(table, np.broadcast_to(table[:, :1], table.shape))
        channels = Dim(table[:, 0]) if len(table) > 1 else None
    elif channels is not None:
        channels = Dim(np.repeat(channels.ids, out.shape[-3] // len(channels)))
    tracker.set_dims(out, (*dims[:-3], channels, None, None))


TAKES_SIZES = (_reshape, _expand)
"""Rules of operators that take sizes, which code may have fixed."""

RULES: dict[str, OperatorRule] = {
    **aten_rules(_reshape, "view reshape _unsafe_view flatten unflatten squeeze squeeze_ unsqueeze unsqueeze_ view_as"),
    **aten_rules(_like_input, "contiguous clone dropout dropout_ feature_dropout detach alias to _to_copy lift_fresh"),
    **aten_rules(_like_input, "alpha_dropout hardswish_ hardswish type_as float _conj resolve_conj resolve_neg"),
    **aten_rules(_like_input, "fake_quantize_per_tensor_affine fake_quantize_per_tensor_affine_cachemask"),
    **aten_rules(pointwise, "complex polar bernoulli bernoulli_ normal normal_ uniform_ exponential_ randint_like"),
    **aten_rules(_permute_dims, "permute transpose t mT numpy_T swapaxes"),
    **aten_rules(_expand, "expand expand_as"),
    **aten_rules(_chunk_half, "glu"),
    **aten_rules(_windows, "im2col"),
    **aten_rules(_unfold, "unfold"),
    **aten_rules(_shuffle_pixels, "pixel_shuffle pixel_unshuffle"),
    **aten_rules(_reduce, "mean sum amax amin max min var std argmax all any prod logsumexp norm linalg_vector_norm"),
    **aten_rules(_reduce, "median var_mean std_mean"),
    **aten_rules(_along, "softmax log_softmax cumsum cumprod logcumsumexp"),
    **aten_rules(_like_input, "zeros_like ones_like full_like empty_like rand_like randn_like"),
}
