"""The sizes of a model's layers and activations, for any plan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compressor.core import ChannelGroup, Layer
from compressor.graph.arithmetic import counted_calls
from compressor.graph.cost import Sizes
from compressor.graph.trace import Ref, Trace
from compressor.graph.tracker import ChannelTracker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from compressor.core import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class ActivationSizes:
    """Sizes of everything that takes time, as linear functions of the channels removed: `base - entries @ removed`.

    D sizes, G groups, W layers, T results of operators, M plans at once. Tables hold indices of sizes, padded with D,
    which stands for a factor of one.
    """

    base_D: IntArray
    entries_DG: FloatArray
    layers: tuple[Layer, ...]  # as they are in the model
    inputs_W: IntArray
    outputs_W: IntArray
    places: IntArray  # (W, most): dimensions that are channels of another layer and places for this one
    results: IntArray  # (T, most dimensions), of tensors with memory of their own
    elementwise_T: IntArray  # 1 where no layer made the tensor: normalization, activation, product, sum
    first_use_T: IntArray  # number of the call that makes it
    last_use_T: IntArray  # number of the last call that reads it
    calls: int

    def sizes(self, removed_MG: IntArray) -> FloatArray:
        """Compute all sizes of several plans.

        Args:
            removed_MG: Channels removed from each group, (M, G).

        Returns:
            (M, D + 1); the last one is the factor of one.
        """
        sizes_MD = self.base_D - removed_MG @ self.entries_DG.T
        return np.concatenate([sizes_MD, np.ones((len(sizes_MD), 1))], axis=1)

    def elements(self, sizes: FloatArray) -> FloatArray:
        """Count the elements that operators other than layers write.

        Args:
            sizes: What `sizes` returns, (M, D + 1).

        Returns:
            Elements of each plan, (M,).
        """
        written: FloatArray = sizes[:, self.results].prod(axis=2) @ self.elementwise_T
        return written

    def peak(self, removed_G: IntArray) -> int:
        """Compute the peak number of live elements.

        Operators run in the module's order. Each result is a tensor of its own, unless it is a view, and is live from
        the operator that makes it to the last that reads it, both included.

        Args:
            removed_G: Channels removed from each group, (G,).

        Returns:
            Elements.
        """
        return _peak(self.sizes(removed_G[None])[0][self.results].prod(axis=1), self.first_use_T, self.last_use_T)


@dataclass(frozen=True, slots=True)
class Result:
    """A tensor with memory of its own: the calls that make it and that read it last."""

    ref: Ref
    first_use: int
    last_use: int
    elementwise: bool  # no layer made it


def results(trace: Trace) -> list[Result]:
    """List every tensor that a run makes, including the inputs; parameters and views are left out."""
    heavy = {id(counted.call) for counted in counted_calls(trace) if counted.weight is not None}
    root: dict[int, int] = {}  # uid -> that of the tensor whose memory it lies in
    first_use: dict[int, tuple[Ref, int, bool]] = {ref.uid: (ref, 0, False) for ref in trace.inputs}
    last_use: dict[int, int] = {}
    for number, call in enumerate(trace.calls, start=1):
        for ref in call.refs():
            last_use[root.get(ref.uid, ref.uid)] = number
        for ref in call.outs:
            if call.view and call.refs():
                first = call.refs()[0].uid
                root.setdefault(ref.uid, root.get(first, first))
            elif ref.uid not in root:
                first_use.setdefault(ref.uid, (ref, number, id(call) not in heavy))
    last_use |= {root.get(ref.uid, ref.uid): len(trace.calls) for ref in trace.outputs}
    made = [(uid, *entry) for uid, entry in first_use.items() if uid not in trace.tensors]
    return [
        Result(ref, number, max(number, last_use.get(uid, number)), elementwise)
        for uid, ref, number, elementwise in made
    ]


def peak_memory(trace: Trace) -> int:
    """Compute the peak number of live elements of a module as it is; see `ActivationSizes.peak`."""
    made = results(trace)
    return _peak(
        [math.prod(result.ref.shape) for result in made],
        [result.first_use for result in made],
        [result.last_use for result in made],
    )


def _peak(elements: ArrayLike, first_use: ArrayLike, last_use: ArrayLike) -> int:
    first_use_T, last_use_T = np.asarray(first_use, dtype=np.int64), np.asarray(last_use, dtype=np.int64)
    change = np.zeros(int(last_use_T.max(initial=0)) + 2)
    np.add.at(change, first_use_T, elements)
    np.subtract.at(change, last_use_T + 1, elements)
    return round(float(change.cumsum().max()))


def activation_sizes(
    trace: Trace, tracker: ChannelTracker, groups: Sequence[ChannelGroup], group_of: IntArray
) -> ActivationSizes:
    """Collect the sizes from a walked trace.

    Args:
        trace: The trace.
        tracker: The tracker that walked it.
        groups: The channel groups.
        group_of: Id -> index of its group, -1 for none.

    Returns:
        The sizes as functions of removed channels.
    """
    sizes = Sizes(groups, group_of)
    made = results(trace)
    shapes = [
        [sizes.index(dim, size) for dim, size in zip(tracker.dims(result.ref), result.ref.shape, strict=True)]
        for result in made
    ]
    uses = tracker.weights
    inputs = [sizes.index(use.inputs, use.layer.in_channels) for use in uses]
    outputs = [sizes.index(use.outputs, use.layer.out_channels) for use in uses]
    weight_dims = [2 + len(use.layer.kernel) for use in uses]
    places = [
        [sizes.index(dim, size) for dim, size in zip(use.dims[own:], use.sizes[own:], strict=True)]
        for use, own in zip(uses, weight_dims, strict=True)
    ]
    return ActivationSizes(
        base_D=sizes.base_D(),
        entries_DG=sizes.entries_DG(),
        layers=tuple(use.layer for use in uses),
        inputs_W=np.array(inputs, dtype=np.int64),
        outputs_W=np.array(outputs, dtype=np.int64),
        places=sizes.table(places),
        results=sizes.table(shapes),
        elementwise_T=np.array([result.elementwise for result in made], dtype=np.int64),
        first_use_T=np.array([result.first_use for result in made], dtype=np.int64),
        last_use_T=np.array([result.last_use for result in made], dtype=np.int64),
        calls=len(trace.calls),
    )
