"""Bytes of a plan: what its ONNX file takes on disk, and what it takes in memory while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from compressor.budget.greedy import Budget
from compressor.budget.target import PruningTarget
from compressor.core import Cost
from compressor.graph.activation_sizes import peak_memory
from compressor.graph.dependency_graph import DependencyGraph
from compressor.graph.rules import table as rules
from compressor.graph.trace import trace_module

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.core import FloatArray, IntArray

FLOAT = 4  # bytes
OPERATOR = 600  # bytes of a file that an operator takes beside its weights; rather more than they do


def file_bytes(structure: DependencyGraph, params: int) -> int:
    """`4 * parameters + 600 * operators`: what the ONNX file comes to, rather over than under."""
    return FLOAT * params + OPERATOR * structure.workload.calls


def memory_bytes(structure: DependencyGraph, removed_G: IntArray) -> int:
    """`4 * (parameters + elements alive at once, at most)` for one input; see `Workload.peak`."""
    return FLOAT * (structure.cost.cost(removed_G).params + structure.workload.peak(removed_G))


def memory_of(module: nn.Module, *inputs: Tensor) -> int:
    """The same, of a module as it runs on `inputs`, a batch of one."""
    params = sum(parameter.numel() for parameter in module.parameters())
    return FLOAT * (params + peak_memory(trace_module(module, *inputs, known=rules.has_rule)))


def memory_budgets(
    selection: PruningTarget, structure: DependencyGraph, original: Cost, began: DependencyGraph
) -> list[Budget]:
    """What targets of size and memory leave. Size is a share of the original model's file, memory of what the model
    takes that the run began with."""

    def limit(name: str, share: float, value: Callable[[IntArray], int], whole: int) -> Budget:
        def values(removed_MG: IntArray) -> FloatArray:
            return np.array([float(value(removed_G)) for removed_G in removed_MG])

        return Budget(name, values, share * whole, whole)

    limits = []
    if selection.size is not None:

        def size(removed_G: IntArray) -> int:
            return file_bytes(structure, structure.cost.cost(removed_G).params)

        limits.append(limit("size", selection.size, size, file_bytes(structure, original.params)))
    if selection.memory is not None:

        def memory(removed_G: IntArray) -> int:
            return memory_bytes(structure, removed_G)

        whole = memory_bytes(began, np.zeros(len(began.groups), dtype=np.int64))
        limits.append(limit("memory", selection.memory, memory, whole))
    return limits
