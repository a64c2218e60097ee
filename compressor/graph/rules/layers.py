"""Rules of the operators that carry weights, normalise or pool."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from compressor.core import Layer
from compressor.graph.trace import Call, Ref
from compressor.graph.tracker import ChannelTracker, Dim, Dims, Product, WeightApplication


def convolution(provenance: ChannelTracker, call: Call, *, transposed: bool = False) -> None:
    """(B, I, *) with weight (O, I/groups, *), or (I, O/groups, *) when transposed."""
    x, w, (out,) = call.args["input"], call.args["weight"], call.outs
    groups: int = call.args["groups"]
    spatial = len(w.shape) - 2
    lead = len(x.shape) - spatial - 1  # 1, or 0 for an input without a batch
    x_dims, w_dims = provenance.dims(x), provenance.dims(w)
    for dim in (*x_dims[lead + 1 :], *w_dims[2:]):
        provenance.freeze(dim, call, "channels used as positions of a convolution")
    x_dim = x_dims[lead]
    if groups == 1:
        in_dim, out_dim = (w_dims[0], w_dims[1]) if transposed else (w_dims[1], w_dims[0])
        read_channels(provenance, call, x_dim, in_dim)
        provenance.role(out_dim, "writer")
    else:
        out_dim = _grouped(provenance, call, x_dim, w, transposed=transposed)
    provenance.attribute(call, "out_channels", out_dim)
    provenance.attribute(call, "in_channels", x_dim)
    bias = call.args["bias"]
    if isinstance(bias, Ref) and out_dim is not None and not provenance.fill(bias, 0, out_dim):
        provenance.join(out_dim, provenance.dims(bias)[0], call, "bias of fixed size")
    positions = (x if transposed else out).shape[lead + 1 :]
    layer = Layer(
        op=call.op.removeprefix("aten."),
        inputs=x.shape[lead],
        outputs=out.shape[lead],
        places=x.shape[lead + 1 :],
        groups=groups,
        kernel=tuple(w.shape[2:]),
        stride=_each(call.args["stride"], spatial),
        padding=_padding(call.args["padding"], w.shape[2:], call.args["dilation"]),
        dilation=_each(call.args["dilation"], spatial),
    )
    at, at_shape = (*x_dims[:lead], *(None,) * spatial), (*x.shape[:lead], *positions)
    use_weight(provenance, w, provenance.dims(w), at, at_shape, layer, x_dim, out_dim)
    provenance.set(out, (*x_dims[:lead], out_dim, *(None,) * spatial))


def deformable(provenance: ChannelTracker, call: Call) -> None:
    """A convolution (O, I/groups, h, w) whose places are moved by offsets, which are no channels; nor are masks."""
    args = call.args
    for name in ("offset", "mask"):
        for dim in provenance.dims(args[name]):
            provenance.freeze(dim, call, "channels used as offsets or masks")
    x_dim = provenance.dims(args["input"])[1]
    if x_dim is not None and args["offset_groups"] > 1:  # a part of the channels for each, which all stay as large
        table = x_dim.atoms.reshape(args["offset_groups"], -1)
        provenance.tie(table, np.broadcast_to(table[:1], table.shape))
    as_one = {
        "stride": (args["stride_h"], args["stride_w"]),
        "padding": (args["pad_h"], args["pad_w"]),
        "dilation": (args["dilation_h"], args["dilation_w"]),
    }
    names = {name: args[name] for name in ("input", "weight", "bias", "groups")}
    convolution(provenance, replace(call, op="aten.conv2d", args=names | as_one))


def _each(value: int | Sequence[int], spatial: int) -> tuple[int, ...]:
    """A size for each dimension, of one that stands for all."""
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes * spatial if len(sizes) == 1 else sizes


def _padding(value: str | int | Sequence[int], kernel: Sequence[int], dilation: int | Sequence[int]) -> tuple[int, ...]:
    """Entries added at each end; `same` counts half of what it adds in all."""
    if isinstance(value, str):
        reach = [step * (size - 1) // 2 for size, step in zip(kernel, _each(dilation, len(kernel)), strict=True)]
        return tuple(reach) if value == "same" else (0,) * len(kernel)
    return _each(value, len(kernel))


def _grouped(provenance: ChannelTracker, call: Call, x_dim: Dim | None, w: Ref, *, transposed: bool) -> Dim | None:
    """Depthwise: output channels go with their input channel. Otherwise every group loses the same places.

    The weight's first dimension holds the outputs of all groups and its second the inputs of one; in a transposed
    convolution the first holds the inputs of all groups and the second the outputs of one.
    """
    first, second, *_ = provenance.dims(w)
    groups = call.args["groups"]
    if x_dim is None:
        for dim in (first, second):
            provenance.freeze(dim, call, "grouped convolution of fixed channels")
        return None if transposed else first
    if len(x_dim) == groups:
        return _depthwise(provenance, call, x_dim, w, transposed=transposed)
    in_table = x_dim.atoms.reshape(groups, -1)
    provenance.tie(in_table, np.broadcast_to(in_table[:1], in_table.shape))
    provenance.role(second if transposed else first, "writer")
    if transposed:
        read_channels(provenance, call, x_dim, first)
        return None if second is None else Dim(np.tile(second.atoms, groups))
    read_channels(provenance, call, Dim(in_table[0]), second)
    if first is not None:
        out_table = first.atoms.reshape(groups, -1)
        provenance.tie(out_table, np.broadcast_to(out_table[:1], out_table.shape))
    return first


def _depthwise(provenance: ChannelTracker, call: Call, x_dim: Dim, w: Ref, *, transposed: bool) -> Dim | None:
    """Output channel i x m + k comes of input channel i alone. A transposed convolution's weight holds the m outputs in
    its second dimension, where they stay."""
    first, second, *_ = provenance.dims(w)
    if not provenance.attribute(call, "groups", x_dim):
        provenance.follow_stored(call, x_dim)  # a function's `groups`, or a module's own word for it
    multiplier = w.shape[1] if transposed else w.shape[0] // len(x_dim)
    outputs = x_dim if multiplier == 1 else Dim(np.repeat(x_dim.atoms, multiplier))
    if transposed:
        provenance.freeze(second, call, "outputs of one channel of a depthwise transposed convolution")
    rows = x_dim if transposed else outputs
    if provenance.fill(w, 0, rows):
        return outputs
    provenance.join(first, rows, call, "depthwise convolution with a weight of fixed size")
    provenance.role(first, "writer")
    return outputs if transposed or first is None else first


def read_channels(provenance: ChannelTracker, call: Call, x_dim: Dim | None, w_dim: Dim | None) -> None:
    """A weight's dimension reads a tensor's channels."""
    provenance.join(x_dim, w_dim, call, "reads fixed channels")
    provenance.role(w_dim, "reader")


def linear_layer(provenance: ChannelTracker, call: Call) -> None:
    """(..., I) with weight (O, I)."""
    x, w, (out,) = call.args["input"], call.args["weight"], call.outs
    x_dims, (out_dim, in_dim) = provenance.dims(x), provenance.dims(w)
    read_channels(provenance, call, x_dims[-1], in_dim)
    provenance.role(out_dim, "writer")
    provenance.attribute(call, "out_features", out_dim)
    provenance.attribute(call, "in_features", x_dims[-1])
    if isinstance(call.args["bias"], Ref) and out_dim is not None:
        provenance.join(out_dim, provenance.dims(call.args["bias"])[0], call, "bias of fixed size")
    layer = Layer("linear", inputs=x.shape[-1], outputs=w.shape[0], places=(math.prod(x.shape[:-1]),))
    use_weight(provenance, w, (out_dim, in_dim), x_dims[:-1], x.shape[:-1], layer, x_dims[-1], out_dim)
    provenance.set(out, (*x_dims[:-1], out_dim))


def use_weight(
    provenance: ChannelTracker,
    weight: Ref,
    w_dims: Dims,
    at: Dims,
    at_shape: Sequence[int],
    layer: Layer,
    inputs: Dim | None,
    outputs: Dim | None,
) -> None:
    """Note a weight at work, applied at every one of these places; places that are channels may become fewer."""
    places = [(dim, size) for dim, size in zip(at, at_shape, strict=True) if dim is not None]
    repeats = math.prod(size for dim, size in zip(at, at_shape, strict=True) if dim is None)
    dims, sizes = (*w_dims, *(dim for dim, _ in places)), (*weight.shape, *(size for _, size in places))
    provenance.weights.append(WeightApplication(weight, dims, sizes, repeats, layer, inputs, outputs))


def bilinear(provenance: ChannelTracker, call: Call) -> None:
    """(..., I) and (..., J) with weight (O, I, J)."""
    x, z, w, (out,) = call.args["input1"], call.args["input2"], call.args["weight"], call.outs
    x_dims, z_dims, w_dims = provenance.dims(x), provenance.dims(z), provenance.dims(w)
    read_channels(provenance, call, x_dims[-1], w_dims[1])
    read_channels(provenance, call, z_dims[-1], w_dims[2])
    provenance.role(w_dims[0], "writer")
    for name, dim in (("in1_features", x_dims[-1]), ("in2_features", z_dims[-1]), ("out_features", w_dims[0])):
        provenance.attribute(call, name, dim)
    if isinstance(call.args["bias"], Ref) and w_dims[0] is not None:
        provenance.join(w_dims[0], provenance.dims(call.args["bias"])[0], call, "bias of fixed size")
    for dim in (*x_dims[:-1], *z_dims[:-1]):
        provenance.freeze(dim, call, "channels used as places")
    rows = x.shape[:-1]
    provenance.products.append(Product((*w_dims, *(None,) * len(rows)), (*w.shape, *rows)))
    provenance.products.append(Product((w_dims[0], w_dims[2], *(None,) * len(rows)), (*w.shape[::2], *rows)))
    provenance.set(out, (*(None,) * len(rows), w_dims[0]))


def channelwise(provenance: ChannelTracker, call: Call) -> None:
    """(B, C, *) with per-channel vectors (C,): batch and instance normalisation, PReLU."""
    x = call.args.get("input") or call.args["self"]
    dims, (out, *rest) = provenance.dims(x), call.outs
    at = min(1, len(dims) - 1)
    for ref in call.refs():
        if ref != x and len(ref.shape) == 1 and ref.shape[0] > 1:
            provenance.join(dims[at], provenance.dims(ref)[0], call, "per-channel parameters of fixed channels")
    if call.args.get("training"):  # batch statistics, as standardised convolutions take of their weights
        for dim in (*dims[:at], *dims[at + 1 :]):
            provenance.mix(dim, call, "normalisation mixes channels")
    provenance.attribute(call, "num_features", dims[at])
    provenance.attribute(call, "num_parameters", dims[at])
    provenance.set(out, dims)
    for ref in rest:
        provenance.set(ref, (None,) * len(ref.shape))


def mixing_norm(provenance: ChannelTracker, call: Call) -> None:
    """Layer and RMS norms: statistics over channels change when one goes."""
    x, (out, *rest) = call.args["input"], call.outs
    dims, lead = provenance.dims(x), len(x.shape) - len(call.args["normalized_shape"])
    for at, dim in enumerate(dims[lead:]):
        provenance.mix(dim, call, "normalisation mixes channels")
        for name in ("weight", "bias"):
            if isinstance(call.args.get(name), Ref):
                provenance.join(dim, provenance.dims(call.args[name])[at], call, "normalises fixed channels")
        if dim is not None and not provenance.attribute(call, "normalized_shape", dim, at):
            provenance.freeze(dim, call, "normalisation whose sizes are not an attribute of the module")
    provenance.set(out, dims)
    for ref in rest:
        provenance.set(ref, (None,) * len(ref.shape))


def group_norm(provenance: ChannelTracker, call: Call) -> None:
    """(B, C, *) in groups with statistics of their own: whole groups may go, and `num_groups` follows."""
    x, (out, *rest), groups = call.args["input"], call.outs, call.args["num_groups"]
    dims = provenance.dims(x)
    for name in ("weight", "bias"):
        if isinstance(call.args[name], Ref):
            provenance.join(dims[1], provenance.dims(call.args[name])[0], call, "per-channel parameters of fixed size")
    if dims[1] is not None:
        table = dims[1].atoms.reshape(groups, -1)
        if groups == 1:
            provenance.mix(dims[1], call, "normalisation mixes channels")
        else:
            provenance.tie(table, np.broadcast_to(table[:, :1], table.shape))
        if groups > 1 and not provenance.attribute(call, "num_groups", Dim(table[:, 0])):
            provenance.freeze(dims[1], call, "group normalisation whose groups are not an attribute of the module")
        provenance.attribute(call, "num_channels", dims[1])
    provenance.set(out, dims)
    for ref in rest:
        provenance.set(ref, (None,) * len(ref.shape))


def embedding(provenance: ChannelTracker, call: Call) -> None:
    """Rows of weight (V, D) looked up by whole numbers: (..., D). Any row may be asked for, so all of them stay."""
    rows, width = provenance.dims(call.args["weight"])
    (out,) = call.outs
    provenance.freeze(rows, call, "rows looked up by value")
    provenance.role(width, "writer")
    provenance.attribute(call, "embedding_dim", width)
    provenance.set(out, (*(None,) * (len(out.shape) - 1), width))


def regions(provenance: ChannelTracker, call: Call) -> None:
    """(B, C, H, W) pooled at boxes (K, 5): (K, C, h, w)."""
    x, boxes, (out,) = call.args["input"], call.args["rois"], call.outs
    dims = provenance.dims(x)
    for dim in (dims[0], *dims[2:], *provenance.dims(boxes)):
        provenance.freeze(dim, call, "channels used as boxes or positions")
    provenance.set(out, (None, dims[1], None, None))


def spatial(trailing: int) -> Callable[[ChannelTracker, Call], None]:
    """Pooling and resampling over the last `trailing` dimensions; what leads goes through."""

    def rule(provenance: ChannelTracker, call: Call) -> None:
        x = call.args.get("self") or call.args["input"]
        dims = provenance.dims(x)
        lead = len(dims) - trailing
        for dim in dims[lead:]:
            provenance.freeze(dim, call, "channels used as positions")
        for out in call.outs:
            provenance.set(out, (*dims[:lead], *(None,) * (len(out.shape) - lead)))

    return rule


def _transposed(provenance: ChannelTracker, call: Call) -> None:
    convolution(provenance, call, transposed=True)


_POOLS = ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool")
_RESAMPLE: dict[int, tuple[str, ...]] = {
    1: ("upsample_nearest1d", "upsample_linear1d"),
    2: ("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa"),
    3: ("upsample_nearest3d", "upsample_trilinear3d"),
}

RULES: dict[str, Callable[[ChannelTracker, Call], None]] = {
    **{f"aten.conv{n}d": convolution for n in (1, 2, 3)},
    **{f"aten.conv_transpose{n}d": _transposed for n in (1, 2, 3)},
    **{f"aten.{pool}{n}d": spatial(n) for pool in _POOLS for n in (1, 2, 3)},
    **{f"aten.max_pool{n}d_with_indices": spatial(n) for n in (2, 3)},
    **{f"aten.{name}": spatial(n) for n, names in _RESAMPLE.items() for name in names},
    **{f"aten.{pad}_pad{n}d": spatial(n) for pad in ("reflection", "replication") for n in (1, 2, 3)},
    "aten.linear": linear_layer,
    "aten.bilinear": bilinear,
    "aten.embedding": embedding,
    "aten.batch_norm": channelwise,
    "aten.prelu": channelwise,
    "aten.layer_norm": mixing_norm,
    "aten.rms_norm": mixing_norm,
    "aten.group_norm": group_norm,
    "aten.instance_norm": channelwise,
    "torchvision.roi_align": regions,
    "torchvision.deform_conv2d": deformable,
}
