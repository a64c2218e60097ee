"""Rules of convolutions: dense, grouped, depthwise, transposed and deformable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from compressor.core import Layer
from compressor.graph.rules.base import OperatorRule
from compressor.graph.rules.linear import apply_weight, read_channels
from compressor.graph.trace import Call, Ref
from compressor.graph.tracked import Dim
from compressor.graph.tracker import ChannelTracker


def _convolution(tracker: ChannelTracker, call: Call, *, transposed: bool = False) -> None:
    """(B, I, *) with weight (O, I/groups, *), or (I, O/groups, *) when transposed."""
    x, w, (out,) = call.args["input"], call.args["weight"], call.outs
    groups: int = call.args["groups"]
    spatial = len(w.shape) - 2
    lead = len(x.shape) - spatial - 1  # 1, or 0 for an input without a batch
    x_dims, w_dims = tracker.dims(x), tracker.dims(w)
    for dim in (*x_dims[lead + 1 :], *w_dims[2:]):
        tracker.freeze(dim, call, "channels used as positions of a convolution")
    x_dim = x_dims[lead]
    if groups == 1:
        in_dim, out_dim = (w_dims[0], w_dims[1]) if transposed else (w_dims[1], w_dims[0])
        read_channels(tracker, call, w, x_dim, in_dim)
        tracker.set_role(out_dim, "writer")
    else:
        out_dim = _grouped(tracker, call, x_dim, w, transposed=transposed)
    tracker.bind_attribute(call, "out_channels", out_dim)
    tracker.bind_attribute(call, "in_channels", x_dim)
    bias = call.args["bias"]
    if isinstance(bias, Ref) and out_dim is not None and not tracker.fill_blank(bias, 0, out_dim):
        tracker.tie_or_freeze(out_dim, tracker.dims(bias)[0], call, "bias of fixed size")
    positions = (x if transposed else out).shape[lead + 1 :]
    layer = Layer(
        op=call.op.removeprefix("aten."),
        in_channels=x.shape[lead],
        out_channels=out.shape[lead],
        spatial_shape=x.shape[lead + 1 :],
        groups=groups,
        kernel=tuple(w.shape[2:]),
        stride=_per_dimension(call.args["stride"], spatial),
        padding=_padding(call.args["padding"], w.shape[2:], call.args["dilation"]),
        dilation=_per_dimension(call.args["dilation"], spatial),
    )
    at, at_shape = (*x_dims[:lead], *(None,) * spatial), (*x.shape[:lead], *positions)
    apply_weight(tracker, w, tracker.dims(w), at, at_shape, layer, x_dim, out_dim)
    tracker.set_dims(out, (*x_dims[:lead], out_dim, *(None,) * spatial))


def _deformable(tracker: ChannelTracker, call: Call) -> None:
    """A convolution (O, I/groups, h, w) with moved sampling positions; offsets and masks are not channels."""
    args = call.args
    for name in ("offset", "mask"):
        for dim in tracker.dims(args[name]):
            tracker.freeze(dim, call, "channels used as offsets or masks")
    x_dim = tracker.dims(args["input"])[1]
    if x_dim is not None and args["offset_groups"] > 1:  # a part of the channels for each, which all stay as large
        table = x_dim.ids.reshape(args["offset_groups"], -1)
        tracker.tie(table, np.broadcast_to(table[:1], table.shape))
    as_one = {
        "stride": (args["stride_h"], args["stride_w"]),
        "padding": (args["pad_h"], args["pad_w"]),
        "dilation": (args["dilation_h"], args["dilation_w"]),
    }
    names = {name: args[name] for name in ("input", "weight", "bias", "groups")}
    _convolution(tracker, replace(call, op="aten.conv2d", args=names | as_one))


def _per_dimension(value: int | Sequence[int], spatial: int) -> tuple[int, ...]:
    """One size for each dimension, from one size for all or from several."""
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes * spatial if len(sizes) == 1 else sizes


def _padding(value: str | int | Sequence[int], kernel: Sequence[int], dilation: int | Sequence[int]) -> tuple[int, ...]:
    """Entries added at each end; `same` counts half of the total."""
    if isinstance(value, str):
        reach = [
            step * (size - 1) // 2 for size, step in zip(kernel, _per_dimension(dilation, len(kernel)), strict=True)
        ]
        return tuple(reach) if value == "same" else (0,) * len(kernel)
    return _per_dimension(value, len(kernel))


def _grouped(tracker: ChannelTracker, call: Call, x_dim: Dim | None, w: Ref, *, transposed: bool) -> Dim | None:
    """Depthwise: output channels are removed with their input channel. Otherwise every group loses the same places.

    The weight's first dimension holds the outputs of all groups and its second the inputs of one; in a transposed
    convolution the first holds the inputs of all groups and the second the outputs of one.
    """
    first, second, *_ = tracker.dims(w)
    groups = call.args["groups"]
    if x_dim is None:
        for dim in (first, second):
            tracker.freeze(dim, call, "grouped convolution of fixed channels")
        return None if transposed else first
    if len(x_dim) == groups:
        return _depthwise(tracker, call, x_dim, w, transposed=transposed)
    in_table = x_dim.ids.reshape(groups, -1)
    tracker.tie(in_table, np.broadcast_to(in_table[:1], in_table.shape))
    tracker.set_role(second if transposed else first, "writer")
    if transposed:
        read_channels(tracker, call, w, x_dim, first)
        return None if second is None else Dim(np.tile(second.ids, groups))
    read_channels(tracker, call, w, Dim(in_table[0]), second)
    if first is not None:
        out_table = first.ids.reshape(groups, -1)
        tracker.tie(out_table, np.broadcast_to(out_table[:1], out_table.shape))
    return first


def _depthwise(tracker: ChannelTracker, call: Call, x_dim: Dim, w: Ref, *, transposed: bool) -> Dim | None:
    """Output channel i x m + k is computed from input channel i alone.

    A transposed convolution's weight holds the m outputs in its second dimension, which is frozen.
    """
    first, second, *_ = tracker.dims(w)
    if not tracker.bind_attribute(call, "groups", x_dim):
        tracker.bind_stored_sizes(call, x_dim)  # a function's `groups`, or a module's own word for it
    multiplier = w.shape[1] if transposed else w.shape[0] // len(x_dim)
    outputs = x_dim if multiplier == 1 else Dim(np.repeat(x_dim.ids, multiplier))
    if transposed:
        tracker.freeze(second, call, "outputs of one channel of a depthwise transposed convolution")
    rows = x_dim if transposed else outputs
    if tracker.fill_blank(w, 0, rows):
        return outputs
    tracker.tie_or_freeze(first, rows, call, "depthwise convolution with a weight of fixed size")
    tracker.set_role(first, "writer")
    return outputs if transposed or first is None or first.repeated else first


def _transposed(tracker: ChannelTracker, call: Call) -> None:
    _convolution(tracker, call, transposed=True)


RULES: dict[str, OperatorRule] = {
    **{f"aten.conv{n}d": _convolution for n in (1, 2, 3)},
    **{f"aten.conv_transpose{n}d": _transposed for n in (1, 2, 3)},
    "torchvision.deform_conv2d": _deformable,
}
