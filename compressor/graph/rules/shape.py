"""Rules of the operators that combine tensors entry by entry, reshape, permute, spread or reduce them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from compressor.graph.trace import Call
from compressor.graph.tracker import Blank, ChannelTracker, Dim, Dims, TakenApart


def pointwise(provenance: ChannelTracker, call: Call) -> None:
    """Entry by entry with broadcasting: dimensions that meet are tied."""
    refs = [ref for ref in call.refs() if ref.shape]
    for out in call.outs:
        dims: list[Dim | None] = []
        for index in range(-len(out.shape), 0):
            meeting = [provenance.dims(ref)[index] for ref in refs if len(ref.shape) >= -index and ref.shape[index] > 1]
            dim = tie_all(provenance, call, meeting) if out.shape[index] > 1 else None
            dims.append(_of_all(dim, meeting) if out.uid in provenance.learned else dim)
        provenance.set(out, dims)


def _of_all(dim: Dim | None, meeting: Sequence[Dim | None]) -> Dim | None:
    """A dimension of a weight that is made of several parameters: it is all theirs."""
    if dim is None:
        return None
    owners = [owner for other in (dim, *meeting) if other is not None for owner in _owners(other)]
    first, *beside = dict.fromkeys(owners) or (None,)
    return replace(dim, owner=first, beside=tuple(beside))


def _owners(dim: Dim) -> tuple[tuple[str, int], ...]:
    return (dim.owner, *dim.beside) if dim.owner else ()


def tie_all(provenance: ChannelTracker, call: Call, meeting: Sequence[Dim | None]) -> Dim | None:
    """Dimensions that meet entry by entry, as one."""
    if not any(meeting):
        return None
    dim = meeting[0]
    for other in meeting[1:]:
        dim = provenance.join(dim, other, call, "combined with a tensor of fixed size")
    return dim


def like_input(provenance: ChannelTracker, call: Call) -> None:
    """The first operand, or a constant of its shape."""
    first = call.refs()[0]
    for out in call.outs:
        provenance.set(out, provenance.dims(first))
        if first.uid in provenance.blank:
            provenance.blank[out.uid] = provenance.blank[first.uid]


def reshape(provenance: ChannelTracker, call: Call) -> None:
    """view, reshape, flatten, unflatten, squeeze, unsqueeze: known from the shapes before and after."""
    x, (out,) = call.refs()[0], call.outs
    dims = _reshaped(provenance, call, provenance.dims(x), x.shape, out.shape)
    if x.shape != out.shape:
        provenance.follow(call, (*provenance.dims(x), *dims))
    provenance.set(out, dims)


def _reshaped(
    provenance: ChannelTracker, call: Call, dims: Dims, before: Sequence[int], after: Sequence[int]
) -> list[Dim | None]:
    result: list[Dim | None] = [None] * len(after)
    for sources, targets in _blocks(before, after):
        labelled = [(dim, index) for index in sources if (dim := dims[index]) is not None]
        if not labelled:
            continue
        if len(sources) == len(targets) == 1:
            result[targets[0]] = dims[sources[0]]
            continue
        dim, kept = max(labelled, key=lambda pair: (not pair[0].repeated, pair[0].blocks, len(pair[0])))
        for other, index in labelled:
            if index != kept or other.repeated:
                provenance.freeze(other, call, "merged with a larger dimension of channels")
        if dim.repeated:
            continue
        spread = [-1 if index == kept else 1 for index in sources]
        table = np.broadcast_to(dim.atoms.reshape(spread), [before[index] for index in sources])
        table = table.reshape([after[index] for index in targets])
        axes = _varying_axes(table) or [table.ndim - 1]
        axis = axes[0] if len(axes) == 1 else _apart(provenance, call, table, axes)
        atoms = np.moveaxis(table, axis, -1).reshape(-1, table.shape[axis])[0]
        blocks = len(axes) > 1 and provenance.reading == "blocks"
        result[targets[axis]] = Dim(atoms, blocks=blocks)
    return result


def _apart(provenance: ChannelTracker, call: Call, table: _Table, axes: Sequence[int]) -> int:
    """C = blocks x places. The same places go in every block, or whole blocks go; the axis along which they do."""
    axis = axes[-1]
    if provenance.reading == "blocks":
        module, outer = provenance.modules[call.module], axes[:-1]
        stored = {value for value in vars(module).values() if type(value) is int}
        widths = {
            getattr(layer, "in_channels", 0) for layer in module.modules()
        }  # of layers that read what comes of it
        known = [axis for sizes in (stored, widths) for axis in reversed(outer) if table.shape[axis] in sizes]
        axis = known[0] if known else outer[-1]
    rows = np.moveaxis(table, axis, -1).reshape(-1, table.shape[axis])
    provenance.tie(rows, np.broadcast_to(rows[:1], rows.shape))
    in_blocks, places = provenance.reading == "blocks", table.shape[axes[-1]]
    provenance.taken_apart.append(TakenApart(call.where, call.module, places, rows[0], in_blocks))
    return axis


def _blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
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


def permute_dims(provenance: ChannelTracker, call: Call) -> None:
    x, (out,) = call.args["self"], call.outs
    dims, rank = provenance.dims(x), len(x.shape)
    order = list(range(rank))
    if "dims" in call.args:
        order = [index % rank for index in call.args["dims"]]
    elif rank >= 2:
        a, b = call.args.get("dim0", 0) % rank, call.args.get("dim1", 1) % rank
        if call.op == "aten.mT":
            a, b = rank - 2, rank - 1
        order[a], order[b] = order[b], order[a]
    provenance.set(out, [dims[index] for index in order])


def expand(provenance: ChannelTracker, call: Call) -> None:
    """Dimensions of one entry become as long as what they meet; the others go through."""
    x, (out,) = call.args["self"], call.outs
    new = len(out.shape) - len(x.shape)
    before, known = (1,) * new + x.shape, (None,) * new + provenance.dims(x)
    dims = [
        replace(provenance.fresh(size), repeated=True) if was < size else dim
        for dim, was, size in zip(known, before, out.shape, strict=True)
    ]
    provenance.follow(call, dims)
    provenance.set(out, dims)


def reduce(provenance: ChannelTracker, call: Call) -> None:
    """mean, sum, max and the like over fixed dimensions; channels that are reduced stay."""
    if "other" in call.args:  # max and min of two tensors share their name with the reductions
        pointwise(provenance, call)
        return
    x, rank = call.args["self"], len(call.args["self"].shape)
    asked = call.args.get("dim")
    axes = {asked % rank} if isinstance(asked, int) else {axis % rank for axis in asked or range(rank)}
    dims = provenance.dims(x)
    for axis in axes:
        provenance.mix(dims[axis], call, "reduced over channels")
    for out in call.outs:
        if len(out.shape) == rank:
            provenance.set(out, [None if axis in axes else dim for axis, dim in enumerate(dims)])
        else:
            provenance.set(out, [dim for axis, dim in enumerate(dims) if axis not in axes])


def along(provenance: ChannelTracker, call: Call) -> None:
    """softmax and the like: the shape stays, channels along `dim` are mixed."""
    x = call.refs()[0]
    dims = provenance.dims(x)
    provenance.freeze(dims[call.args["dim"]], call, "mixes channels")
    for out in call.outs:
        provenance.set(out, dims)


def chunk_half(provenance: ChannelTracker, call: Call) -> None:
    """Gated linear unit: the first half times a function of the second, so the same places go in both."""
    x, (out,), at = call.args["self"], call.outs, call.args["dim"] % len(call.args["self"].shape)
    dims = list(provenance.dims(x))
    whole = dims[at]
    if whole is not None:
        first, second = np.split(whole.atoms, 2)
        provenance.tie(first, second)
        dims[at] = Dim(first) if len(first) > 1 else None
    provenance.set(out, dims)


def windows(provenance: ChannelTracker, call: Call) -> None:
    """im2col: (B, C, H, W) -> (B, C x window, L), every channel with all of its window."""
    x, (out,) = call.args["self"], call.outs
    dims, rank = provenance.dims(x), len(x.shape)
    for dim in dims[-2:]:
        provenance.freeze(dim, call, "channels used as positions")
    whole = dims[-3]
    spread = None if whole is None else Dim(np.repeat(whole.atoms, out.shape[-2] // x.shape[-3]))
    provenance.set(out, (*dims[: rank - 3], spread, None))


def unfold(provenance: ChannelTracker, call: Call) -> None:
    """Sliding windows along one dimension, which must not be channels; they go last."""
    x, (out,), at = call.args["self"], call.outs, call.args["dimension"] % len(call.args["self"].shape)
    dims = provenance.dims(x)
    provenance.freeze(dims[at], call, "channels used as positions")
    provenance.set(out, (*dims[:at], None, *dims[at + 1 :], None))


def shuffle_pixels(provenance: ChannelTracker, call: Call) -> None:
    """pixel_shuffle (B, C x r x r, H, W) -> (B, C, H x r, W x r), all r x r of a channel together; and back."""
    x, (out,) = call.args["self"], call.outs
    dims = provenance.dims(x)
    for dim in dims[-2:]:
        provenance.freeze(dim, call, "channels used as positions")
    whole = dims[-3]
    if whole is not None and len(whole) > out.shape[-3]:
        table = whole.atoms.reshape(out.shape[-3], -1)
        provenance.tie(table, np.broadcast_to(table[:, :1], table.shape))
        whole = Dim(table[:, 0]) if len(table) > 1 else None
    elif whole is not None:
        whole = Dim(np.repeat(whole.atoms, out.shape[-3] // len(whole)))
    provenance.set(out, (*dims[:-3], whole, None, None))


def constant_tensor(provenance: ChannelTracker, call: Call) -> None:
    """Tensors made from sizes alone are fixed; those of one value take on whatever is written into them."""
    for out in call.outs:
        provenance.set(out, (None,) * len(out.shape))
        if call.op.removeprefix("aten.new_").removeprefix("aten.") in ("zeros", "ones", "empty", "full"):
            provenance.blank[out.uid] = Blank(call, provenance.reading)


def _all(rule: Callable[[ChannelTracker, Call], None], names: str) -> dict[str, Callable[[ChannelTracker, Call], None]]:
    return {f"aten.{name}": rule for name in names.split()}


RULES: dict[str, Callable[[ChannelTracker, Call], None]] = {
    **_all(reshape, "view reshape _unsafe_view flatten unflatten squeeze squeeze_ unsqueeze unsqueeze_ view_as"),
    **_all(like_input, "contiguous clone dropout dropout_ feature_dropout detach alias to _to_copy lift_fresh"),
    **_all(like_input, "alpha_dropout hardswish_ hardswish type_as float _conj resolve_conj resolve_neg"),
    **_all(like_input, "fake_quantize_per_tensor_affine fake_quantize_per_tensor_affine_cachemask"),
    **_all(pointwise, "complex polar"),
    **_all(permute_dims, "permute transpose t mT numpy_T swapaxes"),
    **_all(expand, "expand expand_as"),
    **_all(chunk_half, "glu"),
    **_all(windows, "im2col"),
    **_all(unfold, "unfold"),
    **_all(shuffle_pixels, "pixel_shuffle pixel_unshuffle"),
    **_all(reduce, "mean sum amax amin max min var std argmax all any prod logsumexp norm linalg_vector_norm"),
    **_all(reduce, "median var_mean std_mean"),
    **_all(along, "softmax log_softmax cumsum cumprod logcumsumexp"),
    **_all(like_input, "zeros_like ones_like full_like empty_like rand_like randn_like"),
    **_all(constant_tensor, "zeros ones full arange empty rand randn linspace scalar_tensor eye"),
    **_all(constant_tensor, "new_zeros new_ones new_empty new_full"),
}
