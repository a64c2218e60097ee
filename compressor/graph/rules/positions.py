"""Rules of operators that pool, look up, sort, add up, transform or repeat along some dimensions.

Channels along these dimensions are frozen; channels along the others pass through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from compressor.graph.rules.base import OperatorRule, aten_rules, axis_of
from compressor.graph.trace import Call, Ref
from compressor.graph.tracked import Dim
from compressor.graph.tracker import ChannelTracker


def _positionwise(names: Sequence[str], tracker: ChannelTracker, call: Call) -> None:
    """Operators that work along the dimensions that these arguments give, or along all where none is given."""
    x = call.refs()[0]
    dims, axes = tracker.dims(x), _axes(call, names, len(x.shape))
    for axis in axes:
        tracker.freeze(dims[axis], call, "channels used as positions")
    for ref in call.refs()[1:]:  # indices
        for dim in tracker.dims(ref):
            tracker.freeze(dim, call, "channels used as positions")
    for out in call.outs:
        tracker.set_dims(out, [None if axis in axes else dim for axis, dim in enumerate(dims)])


def _windowed(trailing: int, tracker: ChannelTracker, call: Call) -> None:
    """Pooling, resampling and padding over the last `trailing` dimensions; the leading ones pass through."""
    x = call.args.get("self") or call.args["input"]
    dims = tracker.dims(x)
    lead = len(dims) - trailing
    for dim in dims[lead:]:
        tracker.freeze(dim, call, "channels used as positions")
    for out in call.outs:
        tracker.set_dims(out, (*dims[:lead], *(None,) * (len(out.shape) - lead)))


def _regions(tracker: ChannelTracker, call: Call) -> None:
    """(B, C, H, W) pooled at boxes (K, 5): (K, C, h, w)."""
    x, boxes, (out,) = call.args["input"], call.args["rois"], call.outs
    dims = tracker.dims(x)
    for dim in (dims[0], *dims[2:], *tracker.dims(boxes)):
        tracker.freeze(dim, call, "channels used as boxes or positions")
    tracker.set_dims(out, (None, dims[1], None, None))


def _gather_positions(tracker: ChannelTracker, call: Call) -> None:
    """out[i][j][k] = x[i][index[i][j][k]][k], along `dim`; index and result are as large as each other."""
    x, indices, (out,) = call.args["self"], call.args["index"], call.outs
    at = axis_of(call.args["dim"], len(x.shape))
    tracker.freeze(tracker.dims(x)[at], call, "channels used as positions")
    tracker.set_dims(out, _across(tracker, call, at, [x, indices]))


def _scatter(tracker: ChannelTracker, call: Call) -> None:
    """x[i][index[i][j][k]][k] = (or +=) source[i][j][k], along `dim`: scatter, scatter_add, scatter_reduce."""
    x, indices, source = call.args["self"], call.args["index"], call.args.get("src")
    _write(tracker, call, x, [x, indices, *([source] if isinstance(source, Ref) else [])])


def _add_at(tracker: ChannelTracker, call: Call) -> None:
    """x[index[j]] = (or +=) source[j], along `dim`: index_add, index_copy, index_reduce."""
    _write(tracker, call, call.args["self"], [call.args["self"], call.args["source"]])


def _write(tracker: ChannelTracker, call: Call, x: Ref, refs: Sequence[Ref]) -> None:
    at = axis_of(call.args["dim"], len(x.shape))
    for ref in refs:
        tracker.freeze(tracker.dims(ref)[at], call, "channels used as positions")
    dims = _across(tracker, call, at, refs)
    tracker.set_dims(call.outs[0], dims)


def _across(tracker: ChannelTracker, call: Call, at: int, refs: Sequence[Ref]) -> list[Dim | None]:
    """Every dimension but `at` is one in all operands; blank ones are as large as the others."""
    dims: list[Dim | None] = []
    for axis in range(len(refs[0].shape)):
        meeting = [(ref, tracker.dims(ref)[axis]) for ref in refs]
        some = min((dim for _, dim in meeting if dim is not None), key=lambda dim: dim.repeated, default=None)
        if axis == at or some is None:
            dims.append(None)
            continue
        for ref, dim in meeting:
            if ref.shape[axis] != len(some):
                tracker.freeze(some, call, "a fixed part of the channels is taken")
            elif dim is None and tracker.fill_blank(ref, axis, some):
                continue
            else:
                tracker.tie_or_freeze(some, dim, call, "meets a tensor of fixed size")
        dims.append(some if call.outs[0].shape[axis] == len(some) else None)
    return dims


def _repeat(tracker: ChannelTracker, call: Call) -> None:
    """repeat and tile: channels again and again, all that are one together; one entry becomes as long as it must."""
    x, (out,) = call.args["self"], call.outs
    new = len(out.shape) - len(x.shape)
    before, known = (1,) * new + x.shape, (None,) * new + tracker.dims(x)
    dims: list[Dim | None] = []
    for dim, was, size in zip(known, before, out.shape, strict=True):
        if was == 1 and size > 1:
            dims.append(replace(tracker.fresh(size), repeated=True))
        else:
            dims.append(dim if dim is None or size == was else Dim(np.tile(dim.ids, size // was)))
    tracker.bind_size_attributes(call, [dim for dim in dims if dim is not None and dim.repeated])
    tracker.set_dims(out, dims)


def _as_real(tracker: ChannelTracker, call: Call) -> None:
    """Real and imaginary part in a dimension of their own, at the end."""
    tracker.set_dims(call.outs[0], (*tracker.dims(call.args["self"]), None))


def _as_complex(tracker: ChannelTracker, call: Call) -> None:
    """The last dimension, of two, becomes one number."""
    *dims, parts = tracker.dims(call.args["self"])
    tracker.freeze(parts, call, "channels used as real and imaginary parts")
    tracker.set_dims(call.outs[0], dims)


def _sample_grid(tracker: ChannelTracker, call: Call) -> None:
    """grid_sample: (B, C, *) read at a grid of places (B, *, dimensions)."""
    x, grid, (out,) = call.args["input"], call.args["grid"], call.outs
    dims = tracker.dims(x)
    for dim in (*dims[:1], *dims[2:], *tracker.dims(grid)):
        tracker.freeze(dim, call, "channels used as positions")
    tracker.set_dims(out, (None, dims[1], *(None,) * (len(out.shape) - 2)))


def _fold(tracker: ChannelTracker, call: Call) -> None:
    """col2im: (B, C x window, L) -> (B, C, H, W), every channel with all of its window."""
    x, (out,) = call.args["self"], call.outs
    *lead, windows, positions = tracker.dims(x)
    tracker.freeze(positions, call, "channels used as positions")
    channels = None
    if windows is not None:
        table = windows.ids.reshape(out.shape[-3], -1)
        tracker.tie(table, np.broadcast_to(table[:, :1], table.shape))
        channels = Dim(table[:, 0]) if len(table) > 1 else None
    tracker.set_dims(out, (*lead, channels, None, None))


def _unpool(tracker: ChannelTracker, call: Call) -> None:
    """max_unpool: every channel is put back where its largest entries came from."""
    x, indices, (out,) = call.args["self"], call.args["indices"], call.outs
    trailing = 2 if call.op.endswith("2d") else 3
    dims, of_indices = tracker.dims(x), tracker.dims(indices)
    lead = [
        tracker.tie_or_freeze(dim, index, call, "meets indices of fixed size") if dim or index else None
        for dim, index in zip(dims[:-trailing], of_indices[:-trailing], strict=True)
    ]
    for dim in (*dims[-trailing:], *of_indices[-trailing:]):
        tracker.freeze(dim, call, "channels used as positions")
    tracker.set_dims(out, (*lead, *(None,) * trailing))


def _shuffle_channels(tracker: ChannelTracker, call: Call) -> None:
    """channel_shuffle: channels of `groups` groups take turns, so that the same places go in each group."""
    x, (out,) = call.args["self"], call.outs
    dims = list(tracker.dims(x))
    if dims[1] is not None:
        table = dims[1].ids.reshape(call.args["groups"], -1)
        tracker.tie(table, np.broadcast_to(table[:1], table.shape))
        dims[1] = Dim(table.T.reshape(-1))
    tracker.set_dims(out, dims)


def _pack_sequences(tracker: ChannelTracker, call: Call) -> None:
    """Sequences of several lengths (B, T, *) one step after the other: (sum of lengths, *)."""
    dims = tracker.dims(call.args["input"])
    for dim in dims[:2]:
        tracker.freeze(dim, call, "channels used as positions of a sequence")
    data, sizes = call.outs
    tracker.set_dims(data, (None, *dims[2:]))
    tracker.set_dims(sizes, (None,))


def _axes(call: Call, names: Sequence[str], rank: int) -> set[int]:
    given = next((call.args[name] for name in names if call.args.get(name) is not None), None)
    axes = (given,) if isinstance(given, int) else given
    return {axis_of(axis, rank) for axis in (range(rank) if axes is None else axes)} if rank else set()


_POOLS = ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool")
_PADS = ("reflection_pad", "replication_pad")
_RESAMPLE: dict[int, tuple[str, ...]] = {
    1: ("upsample_nearest1d", "upsample_linear1d"),
    2: ("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa"),
    3: ("upsample_nearest3d", "upsample_trilinear3d"),
}

TAKES_SIZES = (_repeat,)
"""Rules of operators that take sizes, which code may have fixed."""

RULES: dict[str, OperatorRule] = {
    **{f"aten.{name}{n}d": partial(_windowed, n) for name in (*_POOLS, *_PADS) for n in (1, 2, 3)},
    **{f"aten.max_pool{n}d_with_indices": partial(_windowed, n) for n in (2, 3)},
    **{f"aten.{name}": partial(_windowed, n) for n, names in _RESAMPLE.items() for name in names},
    "torchvision.roi_align": _regions,
    **aten_rules(
        partial(_positionwise, ("dim",)), "index_select sort topk argsort cummax cummin _fft_r2c _fft_c2r _fft_c2c"
    ),
    **aten_rules(_gather_positions, "gather"),
    **aten_rules(_scatter, "scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_"),
    **aten_rules(_add_at, "index_add index_add_ index_copy index_copy_ index_reduce index_reduce_"),
    **aten_rules(_repeat, "repeat tile"),
    **aten_rules(_as_real, "view_as_real"),
    **aten_rules(_as_complex, "view_as_complex"),
    **aten_rules(_sample_grid, "grid_sampler_2d grid_sampler_3d"),
    **aten_rules(_fold, "col2im"),
    **aten_rules(_unpool, "max_unpool2d max_unpool3d"),
    **aten_rules(_shuffle_channels, "channel_shuffle native_channel_shuffle"),
    **aten_rules(_pack_sequences, "_pack_padded_sequence"),
}
