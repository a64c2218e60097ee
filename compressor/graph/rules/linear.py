"""Rules of linear layers, bilinear layers and embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from compressor.core import Layer
from compressor.graph.rules.base import OperatorRule
from compressor.graph.trace import Call, Ref
from compressor.graph.tracked import Dim, Dims, Product, WeightApplication
from compressor.graph.tracker import ChannelTracker


def read_channels(tracker: ChannelTracker, call: Call, weight: Ref, x_dim: Dim | None, w_dim: Dim | None) -> None:
    """Tie a tensor's channels to the dimension of a weight that reads them.

    A weight that is computed from the input, such as a mixture of kernels, is an activation. What is summed over in a
    product of two activations is frozen.

    Args:
        tracker: Collects the tie.
        call: The call, for the reason of a freeze.
        weight: The weight.
        x_dim: The channels; None where they are fixed.
        w_dim: The dimension of the weight.
    """
    if weight.uid not in tracker.learned:
        for dim in (x_dim, w_dim):
            tracker.freeze(dim, call, "summed over without weights")
        return
    tracker.tie_or_freeze(x_dim, w_dim, call, "reads fixed channels")
    tracker.set_role(w_dim, "reader")


def apply_weight(
    tracker: ChannelTracker,
    weight: Ref,
    w_dims: Dims,
    at: Dims,
    at_shape: Sequence[int],
    layer: Layer,
    inputs: Dim | None,
    outputs: Dim | None,
) -> None:
    """Record that a layer applies its weight at every position of its input.

    Args:
        tracker: Collects the weights.
        weight: The weight.
        w_dims: Its dimensions.
        at: Dimensions of the positions; one that holds channels of another layer may shrink.
        at_shape: Their sizes.
        layer: The layer as it runs.
        inputs: The channels that it reads.
        outputs: The channels that it writes.
    """
    channel_positions = [(dim, size) for dim, size in zip(at, at_shape, strict=True) if dim is not None]
    repeats = math.prod(size for dim, size in zip(at, at_shape, strict=True) if dim is None)
    dims, sizes = (
        (*w_dims, *(dim for dim, _ in channel_positions)),
        (*weight.shape, *(size for _, size in channel_positions)),
    )
    tracker.weights.append(WeightApplication(weight, dims, sizes, repeats, layer, inputs, outputs))


def _linear_layer(tracker: ChannelTracker, call: Call) -> None:
    """(..., I) with weight (O, I)."""
    x, w, (out,) = call.args["input"], call.args["weight"], call.outs
    x_dims, (out_dim, in_dim) = tracker.dims(x), tracker.dims(w)
    read_channels(tracker, call, w, x_dims[-1], in_dim)
    tracker.set_role(out_dim, "writer")
    tracker.bind_attribute(call, "out_features", out_dim)
    tracker.bind_attribute(call, "in_features", x_dims[-1])
    if isinstance(call.args["bias"], Ref) and out_dim is not None:
        tracker.tie_or_freeze(out_dim, tracker.dims(call.args["bias"])[0], call, "bias of fixed size")
    layer = Layer("linear", in_channels=x.shape[-1], out_channels=w.shape[0], spatial_shape=(math.prod(x.shape[:-1]),))
    apply_weight(tracker, w, (out_dim, in_dim), x_dims[:-1], x.shape[:-1], layer, x_dims[-1], out_dim)
    tracker.set_dims(out, (*x_dims[:-1], out_dim))


def _bilinear(tracker: ChannelTracker, call: Call) -> None:
    """(..., I) and (..., J) with weight (O, I, J)."""
    x, z, w, (out,) = call.args["input1"], call.args["input2"], call.args["weight"], call.outs
    x_dims, z_dims, w_dims = tracker.dims(x), tracker.dims(z), tracker.dims(w)
    read_channels(tracker, call, w, x_dims[-1], w_dims[1])
    read_channels(tracker, call, w, z_dims[-1], w_dims[2])
    tracker.set_role(w_dims[0], "writer")
    for name, dim in (("in1_features", x_dims[-1]), ("in2_features", z_dims[-1]), ("out_features", w_dims[0])):
        tracker.bind_attribute(call, name, dim)
    if isinstance(call.args["bias"], Ref) and w_dims[0] is not None:
        tracker.tie_or_freeze(w_dims[0], tracker.dims(call.args["bias"])[0], call, "bias of fixed size")
    for dim in (*x_dims[:-1], *z_dims[:-1]):
        tracker.freeze(dim, call, "channels used as places")
    rows = x.shape[:-1]
    tracker.products.append(Product((*w_dims, *(None,) * len(rows)), (*w.shape, *rows)))
    tracker.products.append(Product((w_dims[0], w_dims[2], *(None,) * len(rows)), (*w.shape[::2], *rows)))
    tracker.set_dims(out, (*(None,) * len(rows), w_dims[0]))


def _embedding(tracker: ChannelTracker, call: Call) -> None:
    """Rows of weight (V, D) looked up by whole numbers: (..., D). Any row may be looked up, so all are kept."""
    rows, width = tracker.dims(call.args["weight"])
    (out,) = call.outs
    tracker.freeze(rows, call, "rows looked up by value")
    tracker.set_role(width, "writer")
    tracker.bind_attribute(call, "embedding_dim", width)
    tracker.set_dims(out, (*(None,) * (len(out.shape) - 1), width))


RULES: dict[str, OperatorRule] = {
    "aten.linear": _linear_layer,
    "aten.bilinear": _bilinear,
    "aten.embedding": _embedding,
}
