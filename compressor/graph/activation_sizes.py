"""What runs when a model runs, for any plan: the widths of its layers, and the tensors it holds meanwhile."""

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
    """Sizes as linear functions of the channels removed, `base - entries @ removed`, of everything that takes time.

    D sizes, G groups, W layers, T results of operators, M plans at once. Tables hold places among the sizes, padded
    with D, which stands for a factor of one.
    """

    base_D: IntArray
    entries_DG: FloatArray
    layers: tuple[Layer, ...]  # as they are in the model
    inputs_W: IntArray
    outputs_W: IntArray
    places: IntArray  # (W, most): dimensions that are channels of another layer and places for this one
    results: IntArray  # (T, most dimensions), of tensors with memory of their own
    elementwise_T: IntArray  # 1 where no layer made the tensor: normalisation, activation, product, sum
    first_use_T: IntArray  # number of the call that makes it
    last_use_T: IntArray  # number of the last call that reads it
    calls: int

    def sizes(self, removed_MG: IntArray) -> FloatArray:
        """(M, D + 1)"""
        sizes_MD = self.base_D - removed_MG @ self.entries_DG.T
        return np.concatenate([sizes_MD, np.ones((len(sizes_MD), 1))], axis=1)

    def elements(self, sizes: FloatArray) -> FloatArray:
        """Elements that operators other than layers write, (M,)."""
        written: FloatArray = sizes[:, self.results].prod(axis=2) @ self.elementwise_T
        return written

    def peak(self, removed_G: IntArray) -> int:
        """Elements of the tensors alive at once, at most.

        Operators run in the module's order; each result is a tensor of its own, unless it is a view, and is alive from
        the operator that makes it to the last that reads it, both included.
        """
        return _peak(self.sizes(removed_G[None])[0][self.results].prod(axis=1), self.first_use_T, self.last_use_T)


@dataclass(frozen=True, slots=True)
class Result:
    """A tensor with memory of its own: numbers of the call that makes it and of the last that reads it."""

    ref: Ref
    born: int
    dies: int
    light: bool  # no layer made it


def results(trace: Trace) -> list[Result]:
    """Every tensor a run makes, the inputs among them; parameters and views are none."""
    heavy = {id(counted.call) for counted in counted_calls(trace) if counted.weight is not None}
    root: dict[int, int] = {}  # uid -> that of the tensor whose memory it lies in
    born: dict[int, tuple[Ref, int, bool]] = {ref.uid: (ref, 0, False) for ref in trace.inputs}
    dies: dict[int, int] = {}
    for number, call in enumerate(trace.calls, start=1):
        for ref in call.refs():
            dies[root.get(ref.uid, ref.uid)] = number
        for ref in call.outs:
            if call.view and call.refs():
                first = call.refs()[0].uid
                root.setdefault(ref.uid, root.get(first, first))
            elif ref.uid not in root:
                born.setdefault(ref.uid, (ref, number, id(call) not in heavy))
    dies |= {root.get(ref.uid, ref.uid): len(trace.calls) for ref in trace.outputs}
    made = [(uid, *each) for uid, each in born.items() if uid not in trace.tensors]
    return [Result(ref, number, max(number, dies.get(uid, number)), light) for uid, ref, number, light in made]


def peak_memory(trace: Trace) -> int:
    """Elements alive at once, at most, of a module as it is; see `Workload.peak`."""
    made = results(trace)
    return _peak([math.prod(each.ref.shape) for each in made], [r.born for r in made], [r.dies for r in made])


def _peak(elements: ArrayLike, born: ArrayLike, dies: ArrayLike) -> int:
    first_use_T, last_use_T = np.asarray(born, dtype=np.int64), np.asarray(dies, dtype=np.int64)
    change = np.zeros(int(last_use_T.max(initial=0)) + 2)
    np.add.at(change, first_use_T, elements)
    np.subtract.at(change, last_use_T + 1, elements)
    return round(float(change.cumsum().max()))


def activation_sizes(
    trace: Trace, tracker: ChannelTracker, groups: Sequence[ChannelGroup], group_of: IntArray
) -> ActivationSizes:
    """Read it off a walked trace; `group_of`: id -> index of its group or -1."""
    sizes = Sizes(groups, group_of)
    made = results(trace)
    shapes = [
        [sizes.index(dim, size) for dim, size in zip(tracker.dims(each.ref), each.ref.shape, strict=True)]
        for each in made
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
        elementwise_T=np.array([each.light for each in made], dtype=np.int64),
        first_use_T=np.array([each.born for each in made], dtype=np.int64),
        last_use_T=np.array([each.dies for each in made], dtype=np.int64),
        calls=len(trace.calls),
    )
