"""The calls of a recorded program that multiply queries and keys, and the rows of the weight that made the queries."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.reconstruction.program import Operation, Program, TensorRef

VIEWS = (
    "aten.view", "aten.reshape", "aten._unsafe_view", "aten.unflatten", "aten.flatten", "aten.permute",
    "aten.transpose", "aten.t", "aten.movedim", "aten.squeeze", "aten.unsqueeze", "aten.split", "aten.chunk",
    "aten.split_with_sizes", "aten.tensor_split", "aten.unbind", "aten.select", "aten.slice", "aten.contiguous",
    "aten.clone", "aten.alias", "aten.dropout", "aten.to",
)  # fmt: skip
"""Operators that move entries without changing them."""

SCALINGS = ("aten.mul", "aten.mul_", "aten.div", "aten.div_")
SCORE_OPERATORS = ("aten.add", "aten.add_", "aten.masked_fill", "aten.masked_fill_", "aten.where", *VIEWS)
"""Operators between the product of queries and keys and the softmax, besides products with a number."""


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """A product of queries (..., T, s) and keys, whose scores a softmax reads. `scale`: numbers that multiply it."""

    operation: int
    query: int  # tensor
    key: int  # tensor
    key_is_transposed: bool  # (..., s, T) instead of (..., T, s)
    scale: float


@dataclass(frozen=True, slots=True)
class QueryProjection:
    """The linear layer that made the queries.

    Attributes:
        weight: Its name.
        bias: Its name; None without.
        rows: The row of the weight that each entry of the queries comes from, (N, s) for the N = images x heads of the
            flattened queries (N, T, s).
    """

    weight: str
    bias: str | None
    rows: Tensor


def find_attention_calls(program: Program) -> list[AttentionCall]:
    """Find the products of queries and keys, in the order of the calls."""
    calls = []
    for index, operation in enumerate(program.operations):
        arguments = operation.named()
        if operation.op == "aten.scaled_dot_product_attention":
            query, key, scale = arguments["query"].uid, arguments["key"].uid, arguments.get("scale")
            usual = program.shapes[query][-1] ** -0.5
            calls.append(AttentionCall(index, query, key, False, usual if scale is None else float(scale)))
        elif operation.op in ("aten.matmul", "aten.bmm"):
            first, second = (arguments[name] for name in ("self", "mat2" if operation.op == "aten.bmm" else "other"))
            scale = _scale_before_softmax(program, index)
            if scale is not None and not {first.uid, second.uid} & program.constants.keys():
                calls.append(AttentionCall(index, first.uid, second.uid, True, scale))
    return calls


def find_query_projection(program: Program, call: AttentionCall) -> QueryProjection | None:
    """Trace the queries of a call back to a linear layer.

    Args:
        program: The program.
        call: One of its calls.

    Returns:
        The layer; None where the queries are not its output, moved and multiplied by numbers.
    """
    path: list[tuple[Operation, int]] = []  # with the number of the result that is read
    uid, at = call.query, call.operation
    while True:
        writers = [index for index in program.writers.get(uid, ()) if index < at]
        if not writers:
            return None
        at = writers[-1]
        operation = program.operations[at]
        if operation.op == "aten.linear":
            break
        source = _moved_tensor(operation)
        if source is None:
            return None
        path.append((operation, operation.outputs.index(uid)))
        uid = source
    arguments = operation.named()
    weight, bias = (
        program.names.get(value.uid) if isinstance(value, TensorRef) else None
        for value in (arguments["weight"], arguments["bias"])
    )
    readers = (program.operations[index] for index in program.readers[arguments["weight"].uid])
    uses = sum(other.op == "aten.linear" and other.named()["weight"] == arguments["weight"] for other in readers)
    if weight is None or uses > 1 or (bias is None and arguments["bias"] is not None):
        return None
    shape = program.shapes[operation.outputs[0]]
    numbers = torch.arange(shape[-1], dtype=torch.float32).expand(shape)
    for moving, result in reversed(path):
        if moving.op not in SCALINGS:
            numbers = _call_on(moving, numbers, result)
    flat = numbers.flatten(0, -3) if numbers.ndim > 3 else numbers
    rows = flat[:, 0].long()
    same_for_all_tokens = bool((flat == flat[:, :1]).all())
    return QueryProjection(weight, bias, rows) if flat.ndim == 3 and same_for_all_tokens else None


def _scale_before_softmax(program: Program, index: int) -> float | None:
    """The product of the numbers between a call and the softmax that alone reads its result; None without a softmax."""
    scale, (uid,) = 1.0, program.operations[index].outputs
    while True:
        readers = [at for at in program.readers.get(uid, ()) if at > index]
        if len(readers) != 1:
            return None
        (index,) = readers
        operation = program.operations[index]
        if operation.op in ("aten.softmax", "aten._softmax"):
            return scale
        number = _number(operation)
        if number is not None:
            scale *= number
        elif operation.op not in SCORE_OPERATORS:
            return None
        if len(operation.outputs) != 1:
            return None
        (uid,) = operation.outputs


def _number(operation: Operation) -> float | None:
    """The number that an operator multiplies its one tensor by."""
    if operation.op not in SCALINGS or len(operation.reads) != 1:
        return None
    other = operation.named()["other"]
    if not isinstance(other, int | float) or not math.isfinite(other) or other == 0:
        return None
    return 1 / other if "div" in operation.op else float(other)


def _moved_tensor(operation: Operation) -> int | None:
    """The tensor whose entries an operator moves, or multiplies by a number."""
    moves = operation.op in VIEWS and len(operation.reads) == 1
    return operation.reads[0] if moves or _number(operation) is not None else None


def _call_on(operation: Operation, tensor: Tensor, result: int) -> Tensor:
    """Run an operator of one tensor on another one."""
    arguments = (tensor if isinstance(argument, TensorRef) else argument for argument in operation.args)
    returned = operation.func(*arguments, **operation.kwargs)
    moved: Tensor = returned if isinstance(returned, Tensor) else returned[result]
    return moved
