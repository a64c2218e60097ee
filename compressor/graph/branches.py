"""The branches of a module that adds something to its input, and the parameters that write them last."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping

from compressor.graph.trace import Call, ModuleCall, Ref, Trace

ADDITIONS = ("add", "add_")
PRODUCTS = ("mul", "mul_")
RECTIFIERS = ("relu", "relu_")
CLAMPS = ("hardtanh", "hardtanh_", "clamp", "clamp_", "relu6")
POOLINGS = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "max_pool1d", "avg_pool1d", "adaptive_avg_pool1d")
NON_NEGATIVE = (*RECTIFIERS, "sigmoid", "softmax", "abs", "square", "relu6")
VIEWS = ("alias", "flatten", "permute", "reshape", "squeeze", "transpose", "unflatten", "unsqueeze", "view", "view_as")
COPIES = ("_to_copy", "clone", "contiguous", "dropout", "feature_dropout", "to", "type_as")  # in eval mode
PASSES_ON = frozenset((*VIEWS, *COPIES))
"""They give every entry of their operand once, perhaps at another place."""
ACTIVATIONS = ("celu", "elu", "gelu", "hardswish", "hardtanh", "leaky_relu", "mish", "relu", "relu6", "silu", "tanh")
KEEPS_ZERO = PASSES_ON.union(
    ACTIVATIONS,
    [f"{name}_" for name in ACTIVATIONS],
    POOLINGS,
    ("chunk", "constant_pad_nd", "expand", "index", "index_select", "neg", "pad", "roll", "select", "slice", "split"),
    ("unbind",),
)
"""They give zeros for zeros."""
WEIGHTED = {f"conv{dims}d": 1 for dims in (1, 2, 3)} | {f"conv_transpose{dims}d": 1 for dims in (1, 2, 3)}
WEIGHTED |= {
    "linear": -1,
    "addmm": -1,
    "batch_norm": 1,
    "group_norm": 1,
    "instance_norm": 1,
    "layer_norm": -1,
    "rms_norm": -1,
}
"""Operators with a weight and perhaps a bias -> the dimension of the channels they write."""


class Branches:
    """A trace, read backwards from the results of its modules."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._written: dict[int, list[int]] = defaultdict(list)  # uid -> numbers of the calls that wrote the tensor
        for number, call in enumerate(trace.calls):
            for ref in call.outs:
                self._written[ref.uid].append(number)

    def writers(self, block: ModuleCall) -> Mapping[str, int] | None:
        """Find what has to be zero for a module to return its input.

        Args:
            block: One run of a module.

        Returns:
            Parameter -> the dimension of the output that it writes; None where the module is not residual.
        """
        return _Walk(self, block).from_output()

    def version(self, ref: Ref, before: int) -> int:
        """Look up which call gave a tensor the value that another call reads.

        Args:
            ref: The tensor.
            before: Number of the call before which it is read.

        Returns:
            The number of the call; -1 for none.
        """
        numbers = self._written.get(ref.uid, [])
        at = bisect_left(numbers, before)
        return numbers[at - 1] if at else -1

    def call(self, number: int) -> Call:
        """A call of the trace."""
        return self._trace.calls[number]

    def parameter(self, ref: Ref, before: int) -> str | None:
        """Look up the parameter or buffer that a tensor is, or is a view of.

        Args:
            ref: The tensor.
            before: Number of the call before which it is read.

        Returns:
            Its name; None for other tensors.
        """
        name = self._trace.tensors.get(ref.uid)
        number = self.version(ref, before)
        if name is not None or number < 0:
            return name
        call = self.call(number)
        refs = call.refs()
        return self.parameter(refs[0], number) if call.view and len(refs) == 1 else None

    def is_non_negative(self, ref: Ref, before: int) -> bool:
        """Tell by the operators that made a tensor whether none of its entries can be below zero.

        Args:
            ref: The tensor.
            before: Number of the call before which it is read.

        Returns:
            False where nothing is known.
        """
        number = self.version(ref, before)
        if number < 0:
            return False
        call = self.call(number)
        name, refs = _name(call), call.refs()
        if name in NON_NEGATIVE or (name in CLAMPS and _bounds(call)[0] >= 0):
            return True
        if name in (*PASSES_ON, *POOLINGS, *ADDITIONS, "cat", "slice"):
            return bool(refs) and all(self.is_non_negative(operand, number) for operand in refs)
        return False

    def is_within(self, ref: Ref, before: int, bounds: tuple[float, float]) -> bool:
        """Tell by the operators that made a tensor whether none of its entries can lie outside bounds.

        Args:
            ref: The tensor.
            before: Number of the call before which it is read.
            bounds: The smallest and the largest value.

        Returns:
            False where nothing is known.
        """
        number = self.version(ref, before)
        if number < 0:
            return False
        call = self.call(number)
        name, refs = _name(call), call.refs()
        if name in CLAMPS:
            low, high = _bounds(call)
            return bounds[0] <= low and high <= bounds[1]
        if bounds == (0.0, math.inf):
            return self.is_non_negative(ref, before)
        return name in (*PASSES_ON, "max_pool2d") and len(refs) == 1 and self.is_within(refs[0], number, bounds)


class _Walk:
    """The way back from one module's output to its input."""

    def __init__(self, branches: Branches, block: ModuleCall) -> None:
        self._branches, self._block = branches, block
        self._input = branches.version(block.input, block.first)

    def from_output(self) -> Mapping[str, int] | None:
        """What has to be zero; None where the output is not the input and something added to it."""
        return self._stream(self._block.output, self._block.last) or None

    def _stream(self, ref: Ref, before: int) -> dict[str, int] | None:
        """What has to be zero for this tensor to be the module's input; None if it is never that."""
        number = self._branches.version(ref, before)
        if ref.uid == self._block.input.uid and number == self._input:
            return {}
        if number < self._block.first:
            return None
        call = self._branches.call(number)
        name, refs = _name(call), call.refs()
        if name in ADDITIONS and call.args.get("alpha", 1) == 1 and len(refs) == 2:
            return self._sum(refs, number)
        if not refs or not (name in PASSES_ON or self._changes_nothing(call)):
            return None
        return self._stream(refs[0], number)

    def _sum(self, refs: tuple[Ref, ...], number: int) -> dict[str, int] | None:
        for stream, branch in (refs, refs[::-1]):
            before = self._stream(stream, number)
            writers = None if before is None else self._zeroed(branch, number)
            if before is not None and writers is not None:
                return before | writers
        return None

    def _changes_nothing(self, call: Call) -> bool:
        """Whether a call is an activation that the module's input has been through already."""
        name = _name(call)
        if name in RECTIFIERS:
            return self._branches.is_non_negative(self._block.input, self._block.first)
        return name in CLAMPS and self._branches.is_within(self._block.input, self._block.first, _bounds(call))

    def _zeroed(self, ref: Ref, before: int) -> dict[str, int] | None:
        """The parameters nearest to this tensor that make it zero; None where there are none in the module."""
        number = self._branches.version(ref, before)
        if number < self._block.first:
            return None
        call = self._branches.call(number)
        name, refs = _name(call), call.refs()
        if name in WEIGHTED:
            return self._parameters(call, number, WEIGHTED[name])
        if name in PRODUCTS:
            factors = [self._factor(operand, number) or self._zeroed(operand, number) for operand in refs]
            return next((factor for factor in factors if factor), None)
        if name in (*ADDITIONS, "cat", "stack") or (name in KEEPS_ZERO and len(refs) == 1) or name in ("div", "div_"):
            operands = refs[:1] if name in ("div", "div_") else refs
            parts = [self._factor(operand, number) or self._zeroed(operand, number) for operand in operands]
            return {key: dim for part in parts for key, dim in (part or {}).items()} if all(parts) else None
        return None

    def _parameters(self, call: Call, number: int, dim: int) -> dict[str, int] | None:
        """Weight and bias of a layer; None where it has no weight, or one that is computed."""
        keys = ("mat2", "self") if call.op == "aten.addmm" else ("weight", "bias")
        operands = [call.args.get(key) for key in keys]
        names = [self._branches.parameter(operand, number) if isinstance(operand, Ref) else "" for operand in operands]
        if not names[0] or None in names:
            return None
        return {name: dim for name in names if name}

    def _factor(self, ref: Ref, number: int) -> dict[str, int] | None:
        """A parameter that a branch is multiplied with or that is added to it, such as a layer scale."""
        name = self._branches.parameter(ref, number)
        if name is None:
            return None
        wide = [at - len(ref.shape) for at, size in enumerate(ref.shape) if size > 1]
        return {name: wide[0] if len(wide) == 1 else -1}


def _name(call: Call) -> str:
    return call.op.removeprefix("aten.")


def _bounds(call: Call) -> tuple[float, float]:
    """The bounds that an operator keeps entries within."""
    if _name(call) == "relu6":
        return 0.0, 6.0
    low = call.args.get("min_val", call.args.get("min"))
    high = call.args.get("max_val", call.args.get("max"))
    return (
        float(low) if isinstance(low, int | float) else -math.inf,
        float(high) if isinstance(high, int | float) else math.inf,
    )
