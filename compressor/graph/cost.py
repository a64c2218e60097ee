"""Parameters, multiply-adds, weights and output channels: counted on a module, and predicted for a plan."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from compressor.core import ChannelGroup, Cost, PrunePlan
from compressor.graph.arithmetic import counted_calls
from compressor.graph.rules import table as rules
from compressor.graph.trace import trace_module
from compressor.graph.tracked import Dim
from compressor.graph.tracker import ChannelTracker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from compressor.core import FloatArray, IntArray


CostKind = Literal["params", "macs", "weights", "nodes"]
KINDS: tuple[CostKind, ...] = ("params", "macs", "weights", "nodes")  # in the order of the fields of Cost


def count_cost(module: nn.Module, *inputs: Tensor) -> Cost:
    """Count the cost of a module on a batch of one; see `arithmetic`.

    A weight that is applied twice is one weight, and its output channels count once.

    Args:
        module: The module. It is not changed.
        inputs: A batch of one.

    Returns:
        Its cost.
    """
    calls = list(counted_calls(trace_module(module, *inputs, known=rules.has_rule)))
    layers = [(call.weight, call.outputs) for call in calls if call.weight is not None]
    weights = {weight.uid: math.prod(weight.shape) for weight, _ in layers}
    nodes = {weight.uid: outputs for weight, outputs in layers if weight.uid != layers[-1][0].uid}
    params = sum(parameter.numel() for parameter in module.parameters())
    return Cost(params, sum(call.macs for call in calls), sum(weights.values()), sum(nodes.values()))


def count_zeros(module: nn.Module, *inputs: Tensor) -> int:
    """Count the zero entries of the weights that `count_cost` counts; weights that are no parameters are skipped.

    Args:
        module: The module. It is not changed.
        inputs: A batch of one.

    Returns:
        Number of zeros.
    """
    seen = trace_module(module, *inputs, known=rules.has_rule)
    names = {seen.tensors.get(call.weight.uid) for call in counted_calls(seen) if call.weight is not None}
    return sum(int((parameter == 0).sum()) for name, parameter in module.named_parameters() if name in names)


def macs_by_weight(module: nn.Module, *inputs: Tensor) -> dict[str, int]:
    """Count multiply-adds by weight.

    Args:
        module: The module. It is not changed.
        inputs: A batch of one.

    Returns:
        Parameter name -> multiply-adds; those of calls without a parameter are under "".
    """
    by_name: dict[str, int] = defaultdict(int)
    seen = trace_module(module, *inputs, known=rules.has_rule)
    for call in counted_calls(seen):
        by_name[seen.tensors.get(call.weight.uid, "") if call.weight is not None else ""] += call.macs
    return dict(by_name)


@dataclass(frozen=True, slots=True)
class CostModel:
    """Sizes as linear functions of the channels removed: sizes = base - entries @ removed.

    D dimensions, G groups, T parameter tensors, W applied weights and products, K distinct weights. Tables hold indices
    of dimensions, padded with D, which stands for a factor of one.
    """

    groups: tuple[str, ...]
    base_D: IntArray
    entries_DG: FloatArray
    tensors: IntArray  # (T, most dimensions)
    weights: IntArray  # (W, most dimensions)
    repeats_W: IntArray
    kernels: IntArray  # (K, most dimensions)
    outputs: IntArray  # (K - 1,): of all but the weight that runs last
    fixed_params: int  # of parameters the run never touched

    def cost(self, removed_G: IntArray) -> Cost:
        """Predict the cost after a removal.

        Args:
            removed_G: Channels removed from each group, (G,).

        Returns:
            The cost.
        """
        sizes = self._sizes_MD(removed_G[None])
        return Cost(*(round(float(self._predict(name, sizes)[0])) for name in KINDS))

    def many(self, name: CostKind, removed_MG: IntArray) -> FloatArray:
        """Predict one kind of cost of several removals at once.

        Args:
            name: The kind of cost.
            removed_MG: Channels removed from each group, (M, G).

        Returns:
            (M,).
        """
        return np.rint(self._predict(name, self._sizes_MD(removed_MG)))

    def _sizes_MD(self, removed_MG: IntArray) -> FloatArray:
        """Every size after each removal, and a factor of one, (M, D + 1)."""
        return np.append(self.base_D - removed_MG @ self.entries_DG.T, np.ones((len(removed_MG), 1)), axis=1)

    def _predict(self, name: CostKind, sizes_MD: FloatArray) -> FloatArray:
        """One kind of cost of each removal, (M,), not rounded."""
        values: FloatArray
        match name:
            case "params":
                values = sizes_MD[:, self.tensors].prod(axis=2).sum(axis=1) + self.fixed_params
            case "macs":
                values = (sizes_MD[:, self.weights].prod(axis=2) * self.repeats_W).sum(axis=1)
            case "weights":
                values = sizes_MD[:, self.kernels].prod(axis=2).sum(axis=1)
            case "nodes":
                values = sizes_MD[:, self.outputs].sum(axis=1)
        return values

    def of(self, plan: PrunePlan) -> Cost:
        """Predict the cost after a plan."""
        return self.cost(removed_counts(self.groups, plan))

    def least(self, groups: Sequence[ChannelGroup]) -> Cost:
        """Predict the cost with one channel in every group that is not frozen."""
        return self.cost(np.array([0 if group.frozen else group.size - 1 for group in groups], dtype=np.int64))


def removed_counts(groups: Sequence[str], plan: PrunePlan) -> IntArray:
    """Count the channels that a plan removes from each group.

    Args:
        groups: Group names, G of them.
        plan: The plan.

    Returns:
        (G,).
    """
    removed = [int((~plan.kept[name]).sum()) if name in plan.kept else 0 for name in groups]
    return np.array(removed, dtype=np.int64)


class Sizes:
    """Sizes in the order in which they occur: one index for each prunable dimension and each fixed number."""

    def __init__(self, groups: Sequence[ChannelGroup], group_of: IntArray) -> None:
        self._groups, self._group_of = groups, group_of
        self._sizes: list[int] = []
        self._entries: list[FloatArray] = []
        self._known: dict[int | tuple[str, int, int], int] = {}

    def index(self, dim: Dim | None, size: int) -> int:
        """Look up the index of a size, which is added at its first use.

        Args:
            dim: The dimension; None where it is fixed.
            size: Its size.

        Returns:
            The index.
        """
        key = size if dim is None else (*dim.owner, size) if dim.owner else id(dim)  # a reshaped weight may be longer
        if key not in self._known:
            self._known[key] = len(self._sizes)
            self._sizes.append(size)
            of = np.empty(0, dtype=np.int64) if dim is None else self._group_of[dim.ids]
            per_group = np.bincount(of[of >= 0], minlength=len(self._groups))
            widths = np.array([group.size for group in self._groups] or [1])
            self._entries.append(per_group / widths[: len(per_group)])
        return self._known[key]

    def base_D(self) -> IntArray:
        return np.array(self._sizes, dtype=np.int64)

    def entries_DG(self) -> FloatArray:
        return np.stack(self._entries) if self._entries else np.zeros((0, len(self._groups)))

    def table(self, rows: list[list[int]]) -> IntArray:
        """Pad rows of indices with the index behind the last one, a factor of one."""
        width = max((len(row) for row in rows), default=0)
        filled = [row + [len(self._sizes)] * (width - len(row)) for row in rows]
        return np.array(filled, dtype=np.int64).reshape(len(rows), width)


def cost_model(
    module: nn.Module, tracker: ChannelTracker, groups: Sequence[ChannelGroup], group_of: IntArray
) -> CostModel:
    """Build the cost model from a walked trace.

    Args:
        module: The module that was traced.
        tracker: The tracker that walked the trace.
        groups: The channel groups.
        group_of: Id -> index of its group, -1 for none.

    Returns:
        The cost as a function of removed channels.
    """
    sizes = Sizes(groups, group_of)
    parameters = {name: parameter.shape for name, parameter in module.named_parameters()}
    touched = [name for name in tracker.parameters if name in parameters]
    tensors = [
        [sizes.index(dim, size) for dim, size in zip(tracker.parameters[name], parameters[name], strict=True)]
        for name in touched
    ]
    at_work = [(use.dims, use.sizes) for use in tracker.weights]
    at_work += [(product.dims, product.sizes) for product in tracker.products]
    weights = [[sizes.index(dim, size) for dim, size in zip(*factors, strict=True)] for factors in at_work]
    repeats = [use.repeats for use in tracker.weights] + [1] * len(tracker.products)
    different = {use.weight.uid: use for use in tracker.weights}
    kernels = [
        [sizes.index(dim, size) for dim, size in zip(use.dims, use.weight.shape, strict=False)]
        for use in different.values()
    ]
    last = tracker.weights[-1].weight.uid if tracker.weights else None
    outputs = [sizes.index(use.outputs, use.layer.out_channels) for uid, use in different.items() if uid != last]
    return CostModel(
        groups=tuple(group.name for group in groups),
        base_D=sizes.base_D(),
        entries_DG=sizes.entries_DG(),
        tensors=sizes.table(tensors),
        weights=sizes.table(weights),
        repeats_W=np.array(repeats, dtype=np.int64),
        kernels=sizes.table(kernels),
        outputs=np.array(outputs, dtype=np.int64),
        fixed_params=sum(math.prod(shape) for name, shape in parameters.items() if name not in tracker.parameters),
    )
