"""Rules of operators that look up, sort, add up, transform or repeat along some dimensions and leave the others alone.

Channels go through where they lie along the others; along the dimensions that are worked on they are frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from compressor.graph.trace import Call, Ref
from compressor.graph.tracker import ChannelTracker, Dim


def positionwise(*names: str) -> Callable[[ChannelTracker, Call], None]:
    """A rule for operators that work along the dimensions that these arguments give, all where none does."""

    def rule(provenance: ChannelTracker, call: Call) -> None:
        x = call.refs()[0]
        dims, axes = provenance.dims(x), _axes(call, names, len(x.shape))
        for axis in axes:
            provenance.freeze(dims[axis], call, "channels used as positions")
        for ref in call.refs()[1:]:  # indices
            for dim in provenance.dims(ref):
                provenance.freeze(dim, call, "channels used as positions")
        for out in call.outs:
            provenance.set(out, [None if axis in axes else dim for axis, dim in enumerate(dims)])

    return rule


def gather_positions(provenance: ChannelTracker, call: Call) -> None:
    """out[i][j][k] = x[i][index[i][j][k]][k], along `dim`; index and result are as large as each other."""
    x, indices, (out,) = call.args["self"], call.args["index"], call.outs
    at = call.args["dim"] % len(x.shape)
    provenance.freeze(provenance.dims(x)[at], call, "channels used as positions")
    provenance.set(out, _across(provenance, call, at, [x, indices]))


def scatter(provenance: ChannelTracker, call: Call) -> None:
    """x[i][index[i][j][k]][k] = (or +=) source[i][j][k], along `dim`: scatter, scatter_add, scatter_reduce."""
    x, indices, source = call.args["self"], call.args["index"], call.args.get("src")
    _write(provenance, call, x, [x, indices, *([source] if isinstance(source, Ref) else [])])


def add_at(provenance: ChannelTracker, call: Call) -> None:
    """x[index[j]] = (or +=) source[j], along `dim`: index_add, index_copy, index_reduce."""
    _write(provenance, call, call.args["self"], [call.args["self"], call.args["source"]])


def _write(provenance: ChannelTracker, call: Call, x: Ref, refs: Sequence[Ref]) -> None:
    at = call.args["dim"] % len(x.shape)
    for ref in refs:
        provenance.freeze(provenance.dims(ref)[at], call, "channels used as positions")
    dims = _across(provenance, call, at, refs)
    provenance.set(call.outs[0], dims)


def _across(provenance: ChannelTracker, call: Call, at: int, refs: Sequence[Ref]) -> list[Dim | None]:
    """Every dimension but `at` is one in all operands; blank ones are as large as the others."""
    dims: list[Dim | None] = []
    for axis in range(len(refs[0].shape)):
        meeting = [(ref, provenance.dims(ref)[axis]) for ref in refs]
        some = next((dim for _, dim in meeting if dim is not None), None)
        if axis == at or some is None:
            dims.append(None)
            continue
        for ref, dim in meeting:
            if ref.shape[axis] != len(some):
                provenance.freeze(some, call, "a fixed part of the channels is taken")
            elif dim is None and provenance.fill(ref, axis, some):
                continue
            else:
                provenance.join(some, dim, call, "meets a tensor of fixed size")
        dims.append(some if call.outs[0].shape[axis] == len(some) else None)
    return dims


def repeat(provenance: ChannelTracker, call: Call) -> None:
    """repeat and tile: channels again and again, all that are one together; one entry becomes as long as it must."""
    x, (out,) = call.args["self"], call.outs
    new = len(out.shape) - len(x.shape)
    before, known = (1,) * new + x.shape, (None,) * new + provenance.dims(x)
    dims: list[Dim | None] = []
    for dim, was, size in zip(known, before, out.shape, strict=True):
        if was == 1 and size > 1:
            dims.append(replace(provenance.fresh(size), repeated=True))
        else:
            dims.append(dim if dim is None or size == was else Dim(np.tile(dim.atoms, size // was)))
    provenance.set(out, dims)


def as_real(provenance: ChannelTracker, call: Call) -> None:
    """Real and imaginary part in a dimension of their own, at the end."""
    provenance.set(call.outs[0], (*provenance.dims(call.args["self"]), None))


def as_complex(provenance: ChannelTracker, call: Call) -> None:
    """The last dimension, of two, becomes one number."""
    *dims, parts = provenance.dims(call.args["self"])
    provenance.freeze(parts, call, "channels used as real and imaginary parts")
    provenance.set(call.outs[0], dims)


def sample_grid(provenance: ChannelTracker, call: Call) -> None:
    """grid_sample: (B, C, *) read at a grid of places (B, *, dimensions)."""
    x, grid, (out,) = call.args["input"], call.args["grid"], call.outs
    dims = provenance.dims(x)
    for dim in (*dims[:1], *dims[2:], *provenance.dims(grid)):
        provenance.freeze(dim, call, "channels used as positions")
    provenance.set(out, (None, dims[1], *(None,) * (len(out.shape) - 2)))


def fold(provenance: ChannelTracker, call: Call) -> None:
    """col2im: (B, C x window, L) -> (B, C, H, W), every channel with all of its window."""
    x, (out,) = call.args["self"], call.outs
    *lead, windows, positions = provenance.dims(x)
    provenance.freeze(positions, call, "channels used as positions")
    channels = None
    if windows is not None:
        table = windows.atoms.reshape(out.shape[-3], -1)
        provenance.tie(table, np.broadcast_to(table[:, :1], table.shape))
        channels = Dim(table[:, 0]) if len(table) > 1 else None
    provenance.set(out, (*lead, channels, None, None))


def unpool(provenance: ChannelTracker, call: Call) -> None:
    """max_unpool: every channel is put back where its largest entries came from."""
    x, indices, (out,) = call.args["self"], call.args["indices"], call.outs
    trailing = 2 if call.op.endswith("2d") else 3
    dims, of_indices = provenance.dims(x), provenance.dims(indices)
    lead = [
        provenance.join(dim, index, call, "meets indices of fixed size") if dim or index else None
        for dim, index in zip(dims[:-trailing], of_indices[:-trailing], strict=True)
    ]
    for dim in (*dims[-trailing:], *of_indices[-trailing:]):
        provenance.freeze(dim, call, "channels used as positions")
    provenance.set(out, (*lead, *(None,) * trailing))


def shuffle_channels(provenance: ChannelTracker, call: Call) -> None:
    """channel_shuffle: channels of `groups` groups take turns, so that the same places go in each group."""
    x, (out,) = call.args["self"], call.outs
    dims = list(provenance.dims(x))
    if dims[1] is not None:
        table = dims[1].atoms.reshape(call.args["groups"], -1)
        provenance.tie(table, np.broadcast_to(table[:1], table.shape))
        dims[1] = Dim(table.T.reshape(-1))
    provenance.set(out, dims)


def pack_sequences(provenance: ChannelTracker, call: Call) -> None:
    """Sequences of several lengths (B, T, *) one step after the other: (sum of lengths, *)."""
    dims = provenance.dims(call.args["input"])
    for dim in dims[:2]:
        provenance.freeze(dim, call, "channels used as positions of a sequence")
    data, sizes = call.outs
    provenance.set(data, (None, *dims[2:]))
    provenance.set(sizes, (None,))


def _axes(call: Call, names: Sequence[str], rank: int) -> set[int]:
    given = next((call.args[name] for name in names if call.args.get(name) is not None), None)
    axes = (given,) if isinstance(given, int) else given
    return {axis % rank for axis in (range(rank) if axes is None else axes)}


def _all(rule: Callable[[ChannelTracker, Call], None], names: str) -> dict[str, Callable[[ChannelTracker, Call], None]]:
    return {f"aten.{name}": rule for name in names.split()}


RULES: dict[str, Callable[[ChannelTracker, Call], None]] = {
    **_all(positionwise("dim"), "index_select sort topk argsort cummax cummin _fft_r2c _fft_c2r _fft_c2c"),
    **_all(gather_positions, "gather"),
    **_all(scatter, "scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_"),
    **_all(add_at, "index_add index_add_ index_copy index_copy_ index_reduce index_reduce_"),
    **_all(repeat, "repeat tile"),
    **_all(as_real, "view_as_real"),
    **_all(as_complex, "view_as_complex"),
    **_all(sample_grid, "grid_sampler_2d grid_sampler_3d"),
    **_all(fold, "col2im"),
    **_all(unpool, "max_unpool2d max_unpool3d"),
    **_all(shuffle_channels, "channel_shuffle native_channel_shuffle"),
    **_all(pack_sequences, "_pack_padded_sequence"),
}
