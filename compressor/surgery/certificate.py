"""The proof of surgery: the slim model computes what the dense one computes with the removed channels unread."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import Certificate, KeptIndices, PrunePlan
from compressor.graph.dependency_graph import DependencyGraph
from compressor.graph.rules import table as rules
from compressor.graph.trace import trace_module
from compressor.layers import has_filters, observe_outputs
from compressor.surgery.masked_reference import mixes_channels, run_restricted, with_readers_zeroed
from compressor.surgery.removal import plan_from_kept, remove_channels, removed_entries
from compressor.tensors import tree_leaves

TOLERANCE = 1e-9  # relative to the largest output; float64 arithmetic leaves about 1e-13


KIND = "masked-dense-float64"
MIXED = "restricted-dense-float64"  # for a plan that changes what a norm works on
REORDERED = "reordered-float64"

Run = Callable[..., object]
"""(module, *inputs) -> output"""


def _plain(module: nn.Module, *inputs: Tensor) -> object:
    return module(*inputs)


def certify_removal(
    dense: nn.Module, slim: nn.Module, structure: DependencyGraph, plan: PrunePlan, *inputs: Tensor
) -> Certificate:
    """Compare `slim(*inputs)` in float64 with the dense model whose readers of removed channels are zero.

    `max_rel_error` is max|slim - masked| / max|masked| over all outputs; it must stay within 1e-9. A model whose answer
    is zero everywhere (a classifier that starts from zero, say) would agree with anything: its all-zero tensors are
    filled with noise on both sides before they are compared. A detector that finds nothing in `inputs`, or sorts what
    it finds by scores that rounding decides, is compared in what its layers of unchanged width write. Where the plan
    drops channels that a normalisation mixes, the dense model's norms work on the kept channels only, and the
    certificate's kind says so.
    """
    reference = partial(run_restricted, structure=structure, plan=plan)
    proof = _agreement(lambda: with_readers_zeroed(dense, structure.groups, plan), reference, slim, inputs)
    if not proof.ok and proof.max_abs_error == 0.0:  # zeros everywhere
        alive = with_nonzero_params(dense)
        slim = remove_channels(alive, structure, plan)
        proof = _agreement(lambda: with_readers_zeroed(alive, structure.groups, plan), reference, slim, inputs)
    return replace(proof, kind=MIXED if mixes_channels(structure, plan) else KIND)


def output_change(dense: nn.Module, slim: nn.Module, *inputs: Tensor) -> float:
    """`max|slim - dense| / max|dense|` over all outputs, in float64: 0 where what was removed did nothing."""
    proof = _compare(_outputs(copy.deepcopy(dense), inputs), _outputs(copy.deepcopy(slim), inputs))
    return proof.max_rel_error if proof.max_abs_error else 0.0


def is_lossless_when_zeroed(dense: nn.Module, structure: DependencyGraph, plan: PrunePlan, *inputs: Tensor) -> bool:
    """Whether channels do nothing once all parameters that write, scale or shift them are zero.

    Not so behind an activation that makes something of zero, such as a sigmoid, or in a norm that mixes channels.
    """
    copied = copy.deepcopy(dense)
    parameters = dict(copied.named_parameters())
    with torch.no_grad():
        for role in ("writer", "per_channel"):
            for (name, dim), gone in removed_entries(structure.groups, plan, role).items():
                if name in parameters:
                    parameters[name].index_fill_(dim, torch.from_numpy(gone), 0.0)
    return output_change(copied, remove_channels(copied, structure, plan), *inputs) <= TOLERANCE


def verify_against_original(
    slim: nn.Module, dense: nn.Module, kept: KeptIndices, *inputs: Tensor, structure: DependencyGraph | None = None
) -> Certificate:
    """Compare `slim` with the original architecture holding slim's weights at the kept indices and zeros elsewhere.

    This needs no weights but slim's own, so it can be checked at any time, after retraining too. `dense` is filled.
    With the dense model's `structure`, its norms work on the kept channels only, as in `certify_removal`.
    """
    values = dict(slim.named_parameters()) | dict(slim.named_buffers())
    with torch.no_grad():
        for name, tensor in (dict(dense.named_parameters()) | dict(dense.named_buffers())).items():
            places = np.ix_(*(kept.get(name, {}).get(dim) or range(size) for dim, size in enumerate(tensor.shape)))
            tensor.zero_()
            tensor[tuple(torch.from_numpy(place) for place in places)] = values[name]
    if structure is None:
        return _agreement(lambda: dense, _plain, slim, inputs)
    reference = partial(run_restricted, structure=structure, plan=plan_from_kept(structure.groups, kept))
    return replace(_agreement(lambda: dense, reference, slim, inputs), kind=MIXED)


def same_outputs(before: nn.Module, after: nn.Module, *inputs: Tensor) -> Certificate:
    """Compare two modules in float64, as `certify_removal` does; neither is changed."""
    return replace(_agreement(lambda: copy.deepcopy(before), _plain, after, inputs), kind=REORDERED)


def _agreement(
    make_dense: Callable[[], nn.Module], reference: Run, slim: nn.Module, inputs: Sequence[Tensor]
) -> Certificate:
    """Outputs compared, or what lies before them where a choice by value comes between.

    The dense model is made when it is needed, so that only one copy in float64 is held at a time.
    """
    expected = _outputs(make_dense(), inputs, reference)
    slim = copy.deepcopy(slim)
    proof = _compare(expected, _outputs(slim, inputs))
    if not proof.ok and trace_module(slim, *_double(inputs), known=rules.has_rule).data_dependent:
        dense = make_dense()
        layers = _unchanged(dense, slim)
        return _compare(_inside(dense, inputs, layers, reference), _inside(slim, inputs, layers))
    return proof


def _compare(expected: Sequence[Tensor], found: Sequence[Tensor]) -> Certificate:
    infinite = float("inf")
    if [each.shape for each in expected] != [each.shape for each in found]:
        return Certificate(KIND, infinite, infinite, ok=False)
    error = max((float((a - b).abs().max()) for a, b in zip(expected, found, strict=True) if a.numel()), default=0.0)
    scale = max((float(each.abs().max()) for each in expected if each.numel()), default=0.0)
    relative = error / scale if scale > 0 else infinite
    return Certificate(KIND, error, relative, ok=relative <= TOLERANCE)


def _unchanged(dense: nn.Module, slim: nn.Module) -> list[str]:
    """Convolutions and linear layers of which no filter went."""
    rows = {name: module.weight.shape for name, module in dense.named_modules() if has_filters(module)}
    return [name for name, module in slim.named_modules() if name in rows and module.weight.shape[:1] == rows[name][:1]]


def _inside(module: nn.Module, inputs: Sequence[Tensor], layers: Sequence[str], run: Run = _plain) -> list[Tensor]:
    """What these layers write, in the order in which they run."""
    written: list[Tensor] = []
    with observe_outputs(module, layers, lambda _, output: written.extend(tree_leaves(output))):
        _outputs(module, inputs, run)
    return written


def with_nonzero_params(module: nn.Module) -> nn.Module:
    """A copy whose all-zero parameters hold seeded noise."""
    copied = copy.deepcopy(module)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in copied.parameters():
            if not parameter.any():
                parameter.normal_(generator=random)
    return copied


def _outputs(module: nn.Module, inputs: Sequence[Tensor], run: Run = _plain) -> list[Tensor]:
    """Floating outputs of the module, which is turned to float64."""
    module.double().eval()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # for tensors that the module's code makes on the way
    try:
        with torch.inference_mode():
            result = run(module, *_double(inputs))
    finally:
        torch.set_default_dtype(before)
    return [leaf for leaf in tree_leaves(result) if leaf.is_floating_point()]


def _double(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [each.double() if each.is_floating_point() else each for each in inputs]
