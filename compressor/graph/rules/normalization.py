"""Rules of normalization layers and of PReLU, all with parameters for each channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compressor.graph.rules.base import OperatorRule
from compressor.graph.trace import Call, Ref
from compressor.graph.tracked import Dim
from compressor.graph.tracker import ChannelTracker

MIXES_CHANNELS = "a normalization mixes these channels, so that they are removed only where a target needs it"


def _channelwise(tracker: ChannelTracker, call: Call) -> None:
    """(B, C, *) with per-channel vectors (C,): batch and instance normalization, PReLU."""
    x = call.args.get("input") or call.args["self"]
    dims, (out, *_) = tracker.dims(x), call.outs
    at = min(1, len(dims) - 1)
    for ref in call.refs():
        if ref != x and len(ref.shape) == 1 and ref.shape[0] > 1:
            tracker.tie_or_freeze(dims[at], tracker.dims(ref)[0], call, "per-channel parameters of fixed channels")
    averaged: Sequence[Dim | None] = ()
    if call.args.get("training"):  # batch statistics, as standardized convolutions take of their weights
        averaged = (*dims[:at], *dims[at + 1 :])
    elif call.args.get("use_input_stats"):  # of one sample: channels lie there if groups were split off by a reshape
        averaged = dims[at + 1 :]
    for dim in averaged:
        tracker.mark_mixed(dim, call, MIXES_CHANNELS)
    tracker.bind_attribute(call, "num_features", dims[at])
    tracker.bind_attribute(call, "num_parameters", dims[at])
    tracker.set_dims(out, dims)


def _mixing_norm(tracker: ChannelTracker, call: Call) -> None:
    """Layer and RMS norms: statistics over channels change when one is removed."""
    x, (out, *_) = call.args["input"], call.outs
    dims, lead = tracker.dims(x), len(x.shape) - len(call.args["normalized_shape"])
    for at, dim in enumerate(dims[lead:]):
        tracker.mark_mixed(dim, call, MIXES_CHANNELS)
        for name in ("weight", "bias"):
            if isinstance(call.args.get(name), Ref):
                tracker.tie_or_freeze(dim, tracker.dims(call.args[name])[at], call, "normalizes fixed channels")
        if dim is not None and not tracker.bind_attribute(call, "normalized_shape", dim, at):
            tracker.freeze(dim, call, "normalization whose sizes are not an attribute of the module")
    tracker.set_dims(out, dims)


def _group_norm(tracker: ChannelTracker, call: Call) -> None:
    """(B, C, *) in groups with statistics of their own: groups may be removed, and `num_groups` follows."""
    x, (out, *_), groups = call.args["input"], call.outs, call.args["num_groups"]
    dims = tracker.dims(x)
    for name in ("weight", "bias"):
        if isinstance(call.args[name], Ref):
            tracker.tie_or_freeze(
                dims[1], tracker.dims(call.args[name])[0], call, "per-channel parameters of fixed size"
            )
    if dims[1] is not None:
        table = dims[1].ids.reshape(groups, -1)
        if groups == 1:
            tracker.mark_mixed(dims[1], call, MIXES_CHANNELS)
        else:
            tracker.tie(table, np.broadcast_to(table[:, :1], table.shape))
        if groups > 1 and not tracker.bind_attribute(call, "num_groups", Dim(table[:, 0])):
            tracker.freeze(dims[1], call, "group normalization whose groups are not an attribute of the module")
        tracker.bind_attribute(call, "num_channels", dims[1])
    tracker.set_dims(out, dims)


RULES: dict[str, OperatorRule] = {
    "aten.batch_norm": _channelwise,
    "aten.instance_norm": _channelwise,
    "aten.prelu": _channelwise,
    "aten.layer_norm": _mixing_norm,
    "aten.rms_norm": _mixing_norm,
    "aten.group_norm": _group_norm,
}
