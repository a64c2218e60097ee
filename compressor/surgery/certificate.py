"""Proofs of surgery: the slim model computes what the dense one computes with the removed channels unread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import Certificate, KeptIndices, PrunePlan
from compressor.execution.copies import copy_module
from compressor.execution.dropped_blocks import is_inside, without_blocks
from compressor.execution.float64 import Run, call
from compressor.graph.dependency_graph import DependencyGraph
from compressor.graph.residual_blocks import ResidualBlock, with_branches_zeroed, zero_branches_
from compressor.surgery.halving import items_at_fault
from compressor.surgery.masked_reference import mixes_channels, run_restricted, with_readers_zeroed
from compressor.surgery.output_comparison import OutputComparison
from compressor.surgery.removal import plan_from_kept, remove_channels, removed_entries
from compressor.tensors import named_tensors

MASKED = "masked-dense"
DENSE = "dense"
RESTRICTED = "restricted-dense"  # for a plan that changes what a norm works on or numbers are drawn for
REORDERED = "reordered"
DROPPED = "dropped-blocks"


def certify_removal(
    dense: nn.Module, slim: nn.Module, graph: DependencyGraph, plan: PrunePlan, *inputs: Tensor
) -> Certificate:
    """Prove that `slim` computes what `dense` computes with the removed channels unread.

    Both run in float64, the dense model with zeros where a weight reads a removed channel:
    `max_rel_error = max|slim - masked| / max|masked|` over all outputs must not exceed 1e-9. Four cases differ, and the
    certificate's kind and tolerance name them:

    - A model whose outputs are zero everywhere, such as a classifier that starts from zero, agrees with anything. Its
      all-zero tensors are filled with noise on both sides before the comparison. If they are zero even then, the
      outputs of layers of unchanged width are compared.
    - The outputs of a detector that detects nothing in `inputs`, or that sorts by scores which differ in the last digit
      only, are not comparable. The outputs of its layers of unchanged width are compared instead. If they differ, too,
      the slim model takes over the choices of the dense one, and the scores behind them are compared like outputs.
    - If the plan removes channels that a normalization mixes or that random numbers are drawn for, the dense model's
      norms work on the kept channels only, and it draws for these only.
    - A forward that does not run in float64 is compared in float32, within 1e-4.

    Args:
        dense: The model before the removal.
        slim: The model after it.
        graph: The dense model's dependency graph.
        plan: The channels that were kept.
        inputs: What both models run on.

    Returns:
        The certificate; `ok` is False where the models differ.
    """
    run_dense = partial(run_restricted, graph=graph, plan=plan)
    reference = RESTRICTED if mixes_channels(graph, plan) else MASKED

    def _compare(module: nn.Module) -> OutputComparison:
        smaller = slim if module is dense else remove_channels(module, graph, plan)
        masked = partial(with_readers_zeroed, module, graph.groups, plan)
        return OutputComparison(masked, smaller, inputs, run_dense)

    return proof_of_nonzero(_compare, dense, reference)


def groups_at_fault(dense: nn.Module, graph: DependencyGraph, plan: PrunePlan, *inputs: Tensor) -> Iterator[str]:
    """Find groups whose channels cannot be removed alone without another change.

    Args:
        dense: The model before the removal.
        graph: Its dependency graph.
        plan: A plan whose removal `certify_removal` does not prove.
        inputs: What the models run on.

    Returns:
        The names of these groups; none where only several groups together are at fault.
    """

    def fails(names: Sequence[str]) -> bool:
        part = PrunePlan({name: plan.kept[name] for name in names})
        return not certify_removal(dense, remove_channels(dense, graph, part), graph, part, *inputs).ok

    return items_at_fault(list(plan.kept), fails)


def certify_dropped_blocks(
    dense: nn.Module, slim: nn.Module, blocks: Sequence[ResidualBlock], *inputs: Tensor
) -> Certificate:
    """Prove that `slim` computes what `dense` computes where the branches of the dropped blocks are zero.

    Args:
        dense: The model with the blocks.
        slim: The model without them.
        blocks: The dropped blocks.
        inputs: What both models run on.

    Returns:
        The certificate, as `certify_removal` gives it.
    """

    def _compare(module: nn.Module) -> OutputComparison:
        smaller = slim if module is dense else without_blocks(module, [block.name for block in blocks])
        return OutputComparison(partial(with_branches_zeroed, module, blocks), smaller, inputs)

    return proof_of_nonzero(_compare, dense, DROPPED)


def proof_of_nonzero(
    compare: Callable[[nn.Module], OutputComparison], module: nn.Module, reference: str, *, inside: bool = True
) -> Certificate:
    """Compare outputs; if all are zero, compare them again with noise in place of all-zero parameters.

    If they remain zero, as behind a ReLU whose inputs are all negative, layers of unchanged width are compared.

    Args:
        compare: Sets up the comparison of a module with what is made of it.
        module: The module. It is not changed.
        reference: The name of what the slim model is compared with.
        inside: Whether layers of unchanged width have the same outputs.

    Returns:
        The certificate.
    """
    proof = compare(module).proof(reference)
    if not proof.ok and not proof.max_abs_error:
        proof = compare(with_nonzero_params(module)).proof(reference)
    if inside and not proof.ok and not proof.max_abs_error:
        return compare(module).inside(reference)
    return proof


def output_change(dense: nn.Module, slim: nn.Module, *inputs: Tensor) -> Certificate:
    """Compare a slim model with the dense one itself, `max|slim - dense| / max|dense|` over all outputs.

    Args:
        dense: The model before the removal.
        slim: The model after it.
        inputs: What both models run on.

    Returns:
        The certificate. It holds where the removed channels had no effect, also if all outputs are zero. A forward
        that does not run in float64 is compared in float32.
    """
    outputs = OutputComparison(lambda: copy_module(dense), slim, inputs).outputs(DENSE)
    return outputs if outputs.max_abs_error else replace(outputs, max_rel_error=0.0, ok=True)


def is_lossless_when_zeroed(dense: nn.Module, graph: DependencyGraph, plan: PrunePlan, *inputs: Tensor) -> bool:
    """Test whether channels have no effect once all parameters that write, scale or shift them are zero.

    They have one behind an activation that maps zero to something else, such as a sigmoid, and in a norm that mixes
    channels.

    Args:
        dense: The model before the removal. It is not changed.
        graph: Its dependency graph.
        plan: The channels to keep.
        inputs: What the model runs on.

    Returns:
        True where the zeroed channels can be removed without a change of the outputs.
    """
    copied = copy_module(dense)
    parameters = dict(copied.named_parameters())
    with torch.no_grad():
        for role in ("writer", "per_channel"):
            for (name, dim), removed in removed_entries(graph.groups, plan, role).items():
                if name in parameters:
                    parameters[name].index_fill_(dim, torch.from_numpy(removed), 0.0)
    return output_change(copied, remove_channels(copied, graph, plan), *inputs).ok


def verify_against_original(
    slim: nn.Module,
    dense: nn.Module,
    kept: KeptIndices,
    *inputs: Tensor,
    graph: DependencyGraph | None = None,
    dropped: Sequence[ResidualBlock] = (),
) -> Certificate:
    """Compare `slim` with the original architecture that holds slim's weights at the kept indices and zeros elsewhere.

    The check needs no weights but slim's own, so that it works at any time, after retraining, too.

    Args:
        slim: The pruned model.
        dense: The original architecture. Its weights are overwritten.
        kept: The kept indices of every tensor, in the original's numbering.
        inputs: What both models run on.
        graph: The dense model's dependency graph; with it, norms work on the kept channels only.
        dropped: Blocks of the original that `slim` lacks. They keep the weights that `dense` has, but their branches
            are zero.

    Returns:
        The certificate, as `certify_removal` gives it.
    """
    zero_branches_(dense, dropped)
    reference = MASKED
    run_dense: Run = call
    if graph is not None:
        reference = RESTRICTED
        run_dense = partial(run_restricted, graph=graph, plan=plan_from_kept(graph.groups, kept))

    def _compare(slim: nn.Module) -> OutputComparison:
        _scatter_(dense, slim, kept, [block.name for block in dropped])
        return OutputComparison(lambda: copy_module(dense), slim, inputs, run_dense)

    return proof_of_nonzero(_compare, slim, reference)


def _scatter_(dense: nn.Module, slim: nn.Module, kept: KeptIndices, dropped: Sequence[str]) -> None:
    """Write the tensors of `slim` to their kept indices in `dense`, and zeros elsewhere, but not in dropped blocks."""
    values = named_tensors(slim)
    with torch.no_grad():
        for name, tensor in named_tensors(dense).items():
            if is_inside(name, dropped):
                continue
            kept_entries = np.ix_(
                *(kept.get(name, {}).get(dim) or range(size) for dim, size in enumerate(tensor.shape))
            )
            tensor.zero_()
            tensor[tuple(torch.from_numpy(index) for index in kept_entries)] = values[name]


def same_outputs(before: nn.Module, after: nn.Module, *inputs: Tensor) -> Certificate:
    """Compare two modules in float64, as `certify_removal` does, without a look inside.

    Args:
        before: One module. It is not changed.
        after: The other module. It is not changed.
        inputs: What both run on.

    Returns:
        The certificate.
    """
    return OutputComparison(lambda: copy_module(before), after, inputs).proof(REORDERED)


def with_nonzero_params(module: nn.Module) -> nn.Module:
    """Copy a module and fill its all-zero parameters with seeded noise."""
    copied = copy_module(module)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in copied.parameters():
            if not parameter.any():
                parameter.normal_(generator=random)
    return copied
