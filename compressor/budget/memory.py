"""Bytes of a plan: the size of its ONNX file, and the memory it takes while it runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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

FLOAT_BYTES = 4
OPERATOR_BYTES = 600  # of a file, for an operator beside its weights; an upper estimate


def file_bytes(graph: DependencyGraph, params: int) -> int:
    """Estimate the size of the ONNX file: `4 * parameters + 600 * operators` bytes, an upper estimate.

    Args:
        graph: The model's dependency graph.
        params: Number of parameters.

    Returns:
        Bytes.
    """
    return FLOAT_BYTES * params + OPERATOR_BYTES * graph.workload.calls


def memory_bytes(graph: DependencyGraph, removed_G: IntArray) -> int:
    """Compute `4 * (parameters + peak of live elements)` bytes for one input; see `ActivationSizes.peak`.

    Args:
        graph: The model's dependency graph.
        removed_G: Channels removed from each group, (G,).

    Returns:
        Bytes.
    """
    return FLOAT_BYTES * (graph.cost.cost(removed_G).params + graph.workload.peak(removed_G))


def memory_of(module: nn.Module, *inputs: Tensor) -> int:
    """Compute the same bytes for a module as it runs.

    Args:
        module: The module.
        inputs: A batch of one.

    Returns:
        Bytes.
    """
    params = sum(parameter.numel() for parameter in module.parameters())
    return FLOAT_BYTES * (params + peak_memory(trace_module(module, *inputs, known=rules.has_rule)))


def memory_budgets(
    target: PruningTarget, graph: DependencyGraph, original: Cost, first_graph: DependencyGraph
) -> list[Budget]:
    """Turn targets of size and memory into budgets in bytes.

    Args:
        target: The target. `size` is a share of the original model's file, `memory` a share of what the model takes
            that the run begins with.
        graph: The dependency graph of the model to prune.
        original: Cost of the original model.
        first_graph: The dependency graph of the model that the run begins with.

    Returns:
        One budget for each target that is set.
    """
    budgets = []
    if target.size is not None:
        baseline = file_bytes(graph, original.params)
        overhead = file_bytes(graph, 0)
        values: Callable[[IntArray], FloatArray] = partial(_bytes_of_params, graph, overhead)
        budgets.append(Budget("size", values, target.size * baseline, baseline))
    if target.memory is not None:
        baseline = memory_bytes(first_graph, np.zeros(len(first_graph.groups), dtype=np.int64))
        values = partial(_per_plan, partial(memory_bytes, graph))
        budgets.append(Budget("memory", values, target.memory * baseline, baseline))
    return budgets


def _bytes_of_params(graph: DependencyGraph, overhead: int, removed_MG: IntArray) -> FloatArray:
    """Bytes of the file (M,) of several plans."""
    return FLOAT_BYTES * graph.cost.many("params", removed_MG) + overhead


def _per_plan(value: Callable[[IntArray], int], removed_MG: IntArray) -> FloatArray:
    """Apply a function of one plan, (G,), to several, (M, G)."""
    return np.array([float(value(removed_G)) for removed_G in removed_MG])
