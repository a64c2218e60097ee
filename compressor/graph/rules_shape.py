"""Rules of the operators that move, join, split, reduce or combine tensors without weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from compressor.graph.provenance import Dim, Dims, Provenance
from compressor.graph.trace import Call


def pointwise(provenance: Provenance, call: Call) -> None:
    """Entry by entry with broadcasting: dimensions that meet are tied."""
    refs = [ref for ref in call.refs() if ref.shape]
    for out in call.outs:
        dims: list[Dim | None] = []
        for index in range(-len(out.shape), 0):
            meeting = [provenance.dims(ref)[index] for ref in refs if len(ref.shape) >= -index and ref.shape[index] > 1]
            dims.append(_meet(provenance, call, meeting) if out.shape[index] > 1 else None)
        provenance.set(out, dims)


def _meet(provenance: Provenance, call: Call, meeting: Sequence[Dim | None]) -> Dim | None:
    if not any(meeting):
        return None
    dim = meeting[0]
    for other in meeting[1:]:
        dim = provenance.join(dim, other, call, "combined with a tensor of fixed size")
    return dim


def same(provenance: Provenance, call: Call) -> None:
    """The first operand, unchanged in shape."""
    x = call.refs()[0]
    for out in call.outs:
        provenance.set(out, provenance.dims(x) if out.shape == x.shape else (None,) * len(out.shape))


def reshape(provenance: Provenance, call: Call) -> None:
    """view, reshape, flatten, unflatten, squeeze, unsqueeze: known from the shapes before and after."""
    x, (out,) = call.refs()[0], call.outs
    provenance.set(out, _reshaped(provenance, call, provenance.dims(x), x.shape, out.shape))


def _reshaped(
    provenance: Provenance, call: Call, dims: Dims, before: Sequence[int], after: Sequence[int]
) -> list[Dim | None]:
    result: list[Dim | None] = [None] * len(after)
    for sources, targets in _blocks(before, after):
        labelled = [index for index in sources if dims[index] is not None]
        if not labelled:
            continue
        if len(sources) == len(targets) == 1:
            result[targets[0]] = dims[sources[0]]
            continue
        if len(labelled) > 1:
            for index in labelled:
                provenance.freeze(dims[index], call, "two dimensions of channels merged")
            continue
        dim = dims[labelled[0]]
        assert dim is not None
        spread = [-1 if index == labelled[0] else 1 for index in sources]
        table = np.broadcast_to(dim.atoms.reshape(spread), [before[index] for index in sources])
        table = table.reshape([after[index] for index in targets])
        axis = _varying_axis(table)
        if axis is None:
            axis = table.ndim - 1  # C = groups x channels: the same places go in every group
            rows = np.moveaxis(table, axis, -1).reshape(-1, table.shape[axis])
            provenance.tie(rows, np.broadcast_to(rows[:1], rows.shape))
        result[targets[axis]] = Dim(np.moveaxis(table, axis, -1).reshape(-1, table.shape[axis])[0])
    return result


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


def _varying_axis(table: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> int | None:
    """The one axis along which the table is not constant; None if there are several."""
    axes = [axis for axis in range(table.ndim) if (table != table.take([0], axis=axis)).any()]
    return axes[0] if len(axes) == 1 else None


def permute(provenance: Provenance, call: Call) -> None:
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


def expand(provenance: Provenance, call: Call) -> None:
    x, (out,) = call.args["self"], call.outs
    dims = (None,) * (len(out.shape) - len(x.shape)) + provenance.dims(x)
    spread = zip(dims, out.shape, strict=True)
    provenance.set(out, [dim if dim is not None and len(dim) == size else None for dim, size in spread])


def cat(provenance: Provenance, call: Call) -> None:
    """Atoms one after the other along `dim`; tied across the operands everywhere else."""
    refs, (out,) = [ref for ref in call.refs() if ref.shape != (0,)], call.outs
    at = call.args["dim"] % len(out.shape)
    dims: list[Dim | None] = []
    for index, size in enumerate(out.shape):
        parts = [provenance.dims(ref)[index] for ref in refs]
        if index != at:
            dims.append(_meet(provenance, call, parts) if size > 1 else None)
        elif not any(parts):
            dims.append(None)
        else:
            dims.append(_joined(provenance, call, parts, [ref.shape[index] for ref in refs]))
    provenance.set(out, dims)


def stack(provenance: Provenance, call: Call) -> None:
    """A new, fixed dimension; everything else is tied across the operands."""
    refs, (out,) = call.refs(), call.outs
    at = call.args["dim"] % len(out.shape)
    columns = zip(*(provenance.dims(ref) for ref in refs), strict=True)
    dims = [_meet(provenance, call, parts) for parts in columns]
    provenance.set(out, (*dims[:at], None, *dims[at:]))


def roll(provenance: Provenance, call: Call) -> None:
    """roll and flip move entries along `dims`: free along positions, freezing along channels."""
    x, (out,) = call.args["self"], call.outs
    dims = provenance.dims(x)
    for axis in call.args["dims"] or range(len(dims)):
        provenance.freeze(dims[axis], call, "channels moved by a fixed amount")
    provenance.set(out, dims)


def _joined(provenance: Provenance, call: Call, parts: Sequence[Dim | None], sizes: Sequence[int]) -> Dim:
    atoms = []
    for part, size in zip(parts, sizes, strict=True):
        if part is None:
            part = provenance.fresh(size)
            provenance.freeze(part, call, "concatenated with fixed channels")
        atoms.append(part.atoms)
    return Dim(np.concatenate(atoms))


def split(provenance: Provenance, call: Call) -> None:
    """chunk and split into equal parts: the same places go in every part. Unequal parts stay whole."""
    x, parts = call.args["self"], call.outs
    at = call.args["dim"] % len(x.shape)
    dims = provenance.dims(x)
    whole = dims[at]
    pieces: list[Dim | None] = [None] * len(parts)
    if whole is not None:
        first, *others = atoms = np.split(whole.atoms, np.cumsum([part.shape[at] for part in parts])[:-1])
        if len(first) == 1 or any(len(each) != len(first) for each in others):
            provenance.freeze(whole, call, "split into unequal parts or single channels")
        else:
            for each in others:
                provenance.tie(first, each)
        pieces = [Dim(each) if len(each) > 1 else None for each in atoms]
    for part, piece in zip(parts, pieces, strict=True):
        provenance.set(part, (*dims[:at], piece, *dims[at + 1 :]))


def take(provenance: Provenance, call: Call) -> None:
    """slice, narrow, select and unbind: free along fixed dimensions, freezing along channels."""
    x, rank = call.args["self"], len(call.args["self"].shape)
    at = call.args.get("dim", 0) % rank
    dims = provenance.dims(x)
    for out in call.outs:
        if out.shape == x.shape:
            provenance.set(out, dims)
            continue
        provenance.freeze(dims[at], call, "a fixed part of the channels is taken")
        kept = dims[at + 1 :] if len(out.shape) < rank else (None, *dims[at + 1 :])
        provenance.set(out, (*dims[:at], *kept))


def reduce(provenance: Provenance, call: Call) -> None:
    """mean, sum, max and the like over fixed dimensions; channels that are reduced stay."""
    if "other" in call.args:  # max and min of two tensors share their name with the reductions
        pointwise(provenance, call)
        return
    x, rank = call.args["self"], len(call.args["self"].shape)
    asked = call.args.get("dim")
    axes = {asked % rank} if isinstance(asked, int) else {axis % rank for axis in asked or range(rank)}
    dims = provenance.dims(x)
    for axis in axes:
        provenance.freeze(dims[axis], call, "reduced over channels")
    for out in call.outs:
        if len(out.shape) == rank:
            provenance.set(out, [None if axis in axes else dim for axis, dim in enumerate(dims)])
        else:
            provenance.set(out, [dim for axis, dim in enumerate(dims) if axis not in axes])


def along(provenance: Provenance, call: Call) -> None:
    """softmax and the like: the shape stays, channels along `dim` are mixed."""
    x = call.refs()[0]
    dims = provenance.dims(x)
    provenance.freeze(dims[call.args["dim"]], call, "mixes channels")
    for out in call.outs:
        provenance.set(out, dims)


def pad(provenance: Provenance, call: Call) -> None:
    """Constant padding. Padded channels are fresh ones; how many of them stay is an attribute of the module."""
    x, (out,) = call.args["self"], call.outs
    amounts = call.args["pad"]
    dims = list(provenance.dims(x))
    for pair in range(len(amounts) // 2):
        axis, (left, right) = len(dims) - 1 - pair, amounts[2 * pair : 2 * pair + 2]
        dim = dims[axis]
        if dim is None or (left == 0 and right == 0):
            continue
        if left < 0 or right < 0 or list(getattr(provenance.modules[call.module], "padding", ())) != list(amounts):
            provenance.freeze(dim, call, "channels padded by a fixed amount")
            dims[axis] = None
            continue
        before, after = provenance.fresh(left), provenance.fresh(right)
        provenance.attribute(call, "padding", before, 2 * pair)
        provenance.attribute(call, "padding", after, 2 * pair + 1)
        dims[axis] = Dim(np.concatenate([before.atoms, dim.atoms, after.atoms]))
    provenance.set(out, dims)


def copy(provenance: Provenance, call: Call) -> None:
    """Writing into a tensor ties both; a fixed tensor fixes what is written."""
    into, source, (out,) = call.args["self"], call.args["src"], call.outs
    dims = list(provenance.dims(into))
    for index in range(-len(source.shape), 0):
        if source.shape[index] > 1:
            provenance.join(dims[index], provenance.dims(source)[index], call, "written into a tensor of fixed size")
    provenance.set(out, dims)


def made(provenance: Provenance, call: Call) -> None:
    """Tensors made from sizes alone are fixed."""
    for out in call.outs:
        provenance.set(out, (None,) * len(out.shape))


def _all(rule: Callable[[Provenance, Call], None], names: str) -> dict[str, Callable[[Provenance, Call], None]]:
    return {f"aten.{name}": rule for name in names.split()}


RULES: dict[str, Callable[[Provenance, Call], None]] = {
    **_all(reshape, "view reshape _unsafe_view flatten unflatten squeeze squeeze_ unsqueeze unsqueeze_ view_as"),
    **_all(same, "contiguous clone dropout dropout_ feature_dropout detach alias to _to_copy lift_fresh"),
    **_all(same, "alpha_dropout hardswish_ hardswish type_as float"),
    **_all(permute, "permute transpose t mT numpy_T swapaxes"),
    **_all(expand, "expand expand_as"),
    **_all(cat, "cat concat concatenate"),
    **_all(stack, "stack"),
    **_all(roll, "roll flip"),
    **_all(split, "chunk split split_with_sizes"),
    **_all(take, "slice narrow select unbind"),
    **_all(reduce, "mean sum amax amin max min var std argmax all any prod logsumexp norm linalg_vector_norm"),
    **_all(along, "softmax log_softmax cumsum"),
    **_all(pad, "constant_pad_nd pad"),
    **_all(copy, "copy_"),
    **_all(made, "zeros ones full arange empty zeros_like ones_like full_like empty_like rand randn linspace"),
    **_all(made, "new_zeros new_ones new_empty new_full scalar_tensor eye tril triu"),
}
