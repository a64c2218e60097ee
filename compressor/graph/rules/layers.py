"""Rules of the operators that carry weights, normalise or pool."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from compressor.core import Layer
from compressor.graph.trace import Call, Ref
from compressor.graph.tracker import ChannelTracker, Dim, Dims, WeightApplication


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
        _read(provenance, call, x_dim, in_dim)
    elif transposed:
        out_dim = None
        for dim in (x_dim, *w_dims[:2]):
            provenance.freeze(dim, call, "grouped transposed convolution")
    else:
        out_dim = _grouped(provenance, call, x_dim, w_dims, groups, w.shape[1])
    provenance.role(out_dim, "writer")
    provenance.attribute(call, "out_channels", out_dim)
    provenance.attribute(call, "in_channels", x_dim)
    if isinstance(call.args["bias"], Ref) and out_dim is not None:
        provenance.join(out_dim, provenance.dims(call.args["bias"])[0], call, "bias of fixed size")
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
    _use(provenance, w, w_dims, at, at_shape, layer, x_dim, out_dim)
    provenance.set(out, (*x_dims[:lead], out_dim, *(None,) * spatial))


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


def _grouped(
    provenance: ChannelTracker, call: Call, x_dim: Dim | None, w_dims: Dims, groups: int, per_group: int
) -> Dim | None:
    """Depthwise: output channels go with their input channel. Otherwise every group loses the same places."""
    out_dim = w_dims[0]
    if out_dim is None:
        provenance.freeze(x_dim, call, "grouped convolution with one output channel")
        return None
    if x_dim is None:
        provenance.freeze(out_dim, call, "grouped convolution of fixed channels")
        return out_dim
    if per_group == 1:
        if not provenance.attribute(call, "groups", x_dim):
            provenance.freeze(x_dim, call, "depthwise convolution whose `groups` is not an attribute of the module")
        provenance.tie(out_dim.atoms, np.repeat(x_dim.atoms, len(out_dim) // groups))
        return out_dim
    in_table, out_table = x_dim.atoms.reshape(groups, -1), out_dim.atoms.reshape(groups, -1)
    for table in (in_table, out_table):
        provenance.tie(table, np.broadcast_to(table[:1], table.shape))
    _read(provenance, call, Dim(in_table[0]), w_dims[1])
    return out_dim


def _read(provenance: ChannelTracker, call: Call, x_dim: Dim | None, w_dim: Dim | None) -> None:
    provenance.join(x_dim, w_dim, call, "reads fixed channels")
    provenance.role(w_dim, "reader")


def linear_layer(provenance: ChannelTracker, call: Call) -> None:
    """(..., I) with weight (O, I)."""
    x, w, (out,) = call.args["input"], call.args["weight"], call.outs
    x_dims, (out_dim, in_dim) = provenance.dims(x), provenance.dims(w)
    _read(provenance, call, x_dims[-1], in_dim)
    provenance.role(out_dim, "writer")
    provenance.attribute(call, "out_features", out_dim)
    provenance.attribute(call, "in_features", x_dims[-1])
    if isinstance(call.args["bias"], Ref) and out_dim is not None:
        provenance.join(out_dim, provenance.dims(call.args["bias"])[0], call, "bias of fixed size")
    layer = Layer("linear", inputs=x.shape[-1], outputs=w.shape[0], places=(math.prod(x.shape[:-1]),))
    _use(provenance, w, (out_dim, in_dim), x_dims[:-1], x.shape[:-1], layer, x_dims[-1], out_dim)
    provenance.set(out, (*x_dims[:-1], out_dim))


def _use(
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


def recurrent(provenance: ChannelTracker, call: Call) -> None:
    """LSTM, GRU and RNN: gates are stacked in one matrix that the layer's own sizes describe, so they stay whole."""
    for ref in call.refs():
        for dim in provenance.dims(ref):
            provenance.freeze(dim, call, "recurrent layers stay whole")
    for ref in call.outs:
        provenance.set(ref, (None,) * len(ref.shape))


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
    "aten.embedding": embedding,
    "aten.batch_norm": channelwise,
    "aten.prelu": channelwise,
    "aten.layer_norm": mixing_norm,
    "aten.rms_norm": mixing_norm,
    "aten.group_norm": group_norm,
    "aten.instance_norm": channelwise,
    **{f"aten.{name}": recurrent for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    "torchvision.roi_align": regions,
}
