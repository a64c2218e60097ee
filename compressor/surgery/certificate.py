"""Proofs of surgery: the slim model computes what the dense one computes with the removed channels unread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from compressor.core import Certificate, KeptIndices, PrunePlan
from compressor.execution.copies import copy_module
from compressor.execution.dropped_blocks import is_inside, without_blocks
from compressor.execution.equal_choices import Choices, RecordChoices, RepeatChoices
from compressor.execution.float64 import Run, call, run_in_float32, run_in_float64
from compressor.graph.dependency_graph import DependencyGraph
from compressor.graph.residual_blocks import ResidualBlock, with_branches_zeroed, zero_branches_
from compressor.graph.rules import table as rules
from compressor.graph.trace import trace_module
from compressor.layers import has_filters
from compressor.surgery.masked_reference import mixes_channels, run_restricted, with_readers_zeroed
from compressor.surgery.removal import plan_from_kept, remove_channels, removed_entries
from compressor.tensors import tree_leaves

TOLERANCE = 1e-9  # relative to the largest output; float64 arithmetic leaves about 1e-13
TOLERANCE_32 = 1e-4  # the same where a model runs in float32 only, which leaves about 1e-6

KIND = "masked-dense-float64"
RESTRICTED = "restricted-dense"
MIXED = f"{RESTRICTED}-float64"  # for a plan that changes what a norm works on
REORDERED = "reordered-float64"
DROPPED = "dropped-blocks-float64"
CHOSEN = "-equal-choices"  # at the end of a kind: the slim model takes over what the dense one chose by value


def certify_removal(
    dense: nn.Module, slim: nn.Module, structure: DependencyGraph, plan: PrunePlan, *inputs: Tensor
) -> Certificate:
    """Prove that `slim` computes what `dense` computes with the removed channels unread.

    Both run in float64, the dense model with zeros where a weight reads a removed channel:
    `max_rel_error = max|slim - masked| / max|masked|` over all outputs must not exceed 1e-9. Four cases differ, and the
    certificate's kind and tolerance name them:

    - A model whose outputs are zero everywhere, such as a classifier that starts from zero, agrees with anything. Its
      all-zero tensors are filled with noise on both sides before the comparison.
    - The outputs of a detector that detects nothing in `inputs`, or that sorts by scores which differ in the last digit
      only, are not comparable. The outputs of its layers of unchanged width are compared instead. If they differ, too,
      the slim model takes over the choices of the dense one, and the scores behind them are compared like outputs.
    - If the plan removes channels that a normalisation mixes, the dense model's norms work on the kept channels only.
    - A forward that does not run in float64 is compared in float32, within 1e-4.

    Args:
        dense: The model before the removal.
        slim: The model after it.
        structure: The dense model's dependency graph.
        plan: The channels that were kept.
        inputs: What both models run on.

    Returns:
        The certificate; `ok` is False where the models differ.
    """
    reference = partial(run_restricted, structure=structure, plan=plan)
    kind = MIXED if mixes_channels(structure, plan) else KIND
    proof = _Pair(lambda: with_readers_zeroed(dense, structure.groups, plan), slim, inputs, reference).proof(kind)
    if not proof.ok and proof.max_abs_error == 0.0:  # zeros everywhere
        nonzero = with_nonzero_params(dense)
        slim = remove_channels(nonzero, structure, plan)
        proof = _Pair(lambda: with_readers_zeroed(nonzero, structure.groups, plan), slim, inputs, reference).proof(kind)
    return proof


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
    proof = _Pair(lambda: with_branches_zeroed(dense, blocks), slim, inputs).proof(DROPPED)
    if not proof.ok and proof.max_abs_error == 0.0:  # zeros everywhere
        nonzero = with_nonzero_params(dense)
        slim = without_blocks(nonzero, [block.name for block in blocks])
        proof = _Pair(lambda: with_branches_zeroed(nonzero, blocks), slim, inputs).proof(DROPPED)
    return proof


def output_change(dense: nn.Module, slim: nn.Module, *inputs: Tensor) -> float:
    """Compute `max|slim - dense| / max|dense|` over all outputs, in float64.

    Args:
        dense: The model before the removal.
        slim: The model after it.
        inputs: What both models run on.

    Returns:
        0.0 where the removed channels had no effect.
    """
    outputs = _Pair(lambda: copy_module(dense), slim, inputs).outputs(KIND)
    return outputs.max_rel_error if outputs.max_abs_error else 0.0


def is_lossless_when_zeroed(dense: nn.Module, structure: DependencyGraph, plan: PrunePlan, *inputs: Tensor) -> bool:
    """Test whether channels have no effect once all parameters that write, scale or shift them are zero.

    They have one behind an activation that maps zero to something else, such as a sigmoid, and in a norm that mixes
    channels.

    Args:
        dense: The model before the removal. It is not changed.
        structure: Its dependency graph.
        plan: The channels to keep.
        inputs: What the model runs on.

    Returns:
        True where the zeroed channels can be removed without a change of the outputs.
    """
    copied = copy_module(dense)
    parameters = dict(copied.named_parameters())
    with torch.no_grad():
        for role in ("writer", "per_channel"):
            for (name, dim), removed in removed_entries(structure.groups, plan, role).items():
                if name in parameters:
                    parameters[name].index_fill_(dim, torch.from_numpy(removed), 0.0)
    return output_change(copied, remove_channels(copied, structure, plan), *inputs) <= TOLERANCE


def verify_against_original(
    slim: nn.Module,
    dense: nn.Module,
    kept: KeptIndices,
    *inputs: Tensor,
    structure: DependencyGraph | None = None,
    dropped: Sequence[ResidualBlock] = (),
) -> Certificate:
    """Compare `slim` with the original architecture that holds slim's weights at the kept indices and zeros elsewhere.

    The check needs no weights but slim's own, so that it works at any time, after retraining, too.

    Args:
        slim: The pruned model.
        dense: The original architecture. Its weights are overwritten.
        kept: The kept indices of every tensor, in the original's numbering.
        inputs: What both models run on.
        structure: The dense model's dependency graph; with it, norms work on the kept channels only.
        dropped: Blocks of the original that `slim` lacks. They keep the weights that `dense` has, but their branches
            are zero.

    Returns:
        The certificate, as `certify_removal` gives it.
    """
    values = dict(slim.named_parameters()) | dict(slim.named_buffers())
    names = [block.name for block in dropped]
    zero_branches_(dense, dropped)
    with torch.no_grad():
        for name, tensor in (dict(dense.named_parameters()) | dict(dense.named_buffers())).items():
            if is_inside(name, names):
                continue
            kept_entries = np.ix_(
                *(kept.get(name, {}).get(dim) or range(size) for dim, size in enumerate(tensor.shape))
            )
            tensor.zero_()
            tensor[tuple(torch.from_numpy(index) for index in kept_entries)] = values[name]
    if structure is None:
        return _Pair(lambda: copy_module(dense), slim, inputs).proof(KIND)
    reference = partial(run_restricted, structure=structure, plan=plan_from_kept(structure.groups, kept))
    return _Pair(lambda: copy_module(dense), slim, inputs, reference).proof(MIXED)


def same_outputs(before: nn.Module, after: nn.Module, *inputs: Tensor) -> Certificate:
    """Compare two modules in float64, as `certify_removal` does.

    Args:
        before: One module. It is not changed.
        after: The other module. It is not changed.
        inputs: What both run on.

    Returns:
        The certificate.
    """
    return _Pair(lambda: copy_module(before), after, inputs).proof(REORDERED)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two modules that should compute the same. Every pass runs a fresh copy, from equal random numbers.

    The dense model is built when it is needed, so that memory holds one float64 copy at a time.
    """

    make_dense: Callable[[], nn.Module]
    slim: nn.Module
    inputs: Sequence[Tensor]
    reference: Run = call  # how the dense model is run
    run: Callable[..., object] = run_in_float64

    @property
    def tolerance(self) -> float:
        return TOLERANCE if self.run is run_in_float64 else TOLERANCE_32

    def proof(self, kind: str) -> Certificate:
        """Compare outputs; where values decide, what lies before them, or outputs behind equal choices."""
        proof = self.outputs(kind)
        if proof.ok:
            return proof
        pair = self if proof.tolerance == self.tolerance else self.in_float32
        if trace_module(copy_module(self.slim), *self.inputs, known=rules.has_rule).data_dependent:
            inside = pair.inside(kind)
            if inside.ok:
                return inside
        chosen = pair.behind_choices(kind)
        return chosen if chosen.ok or proof.max_abs_error == 0.0 else proof

    @property
    def in_float32(self) -> _Pair:
        return replace(self, run=run_in_float32)

    def outputs(self, kind: str) -> Certificate:
        """Compare outputs in float64, or in float32 where the forward requires the types it was written for."""
        try:
            expected = self._outputs(self.make_dense(), self.reference)
            return _compare(kind, self.tolerance, expected, self._outputs(copy_module(self.slim)))
        except Exception:  # what a user's forward raises when it finds other types than it expects
            if self.run is run_in_float32:
                raise
            return self.in_float32.outputs(kind)

    def inside(self, kind: str) -> Certificate:
        """Compare the outputs of layers of unchanged width."""
        dense, slim = self.make_dense(), copy_module(self.slim)
        layers = _unchanged(dense, slim)
        return _compare(kind, self.tolerance, self._inside(dense, layers, self.reference), self._inside(slim, layers))

    def behind_choices(self, kind: str) -> Certificate:
        """Compare outputs and the scores behind choices; the slim model takes over the dense one's choices."""
        choices = Choices()
        with RecordChoices(choices):
            expected = self._outputs(self.make_dense(), self.reference)
        with RepeatChoices(choices):
            actual = self._outputs(copy_module(self.slim))
        return _compare(f"{kind}{CHOSEN}", self.tolerance, expected, actual, choices)

    def _outputs(self, module: nn.Module, run: Run = call) -> list[Tensor]:
        """Run a module, which is changed, and return its floating-point outputs."""
        with torch.inference_mode():
            result = self.run(module, self.inputs, run)
        return [leaf for leaf in tree_leaves(result) if leaf.is_floating_point()]

    def _inside(self, module: nn.Module, layers: Sequence[str], run: Run = call) -> list[Tensor]:
        """Collect the outputs of these layers, in the order in which they run."""
        results: list[Tensor] = []
        for name in layers:
            module.get_submodule(name).register_forward_hook(lambda _, __, result: results.extend(tree_leaves(result)))
        self._outputs(module, run)
        return results


def _compare(
    kind: str, tolerance: float, expected: Sequence[Tensor], actual: Sequence[Tensor], choices: Choices | None = None
) -> Certificate:
    """Compare outputs by their largest difference.

    `choices` holds what was compared beside the outputs; nothing else is compared where these are integers or empty.
    """
    infinite = float("inf")
    kind = kind.replace("float64", "float32") if tolerance == TOLERANCE_32 else kind
    if [output.shape for output in expected] != [output.shape for output in actual]:
        return Certificate(kind, infinite, infinite, ok=False, tolerance=tolerance)
    error = max((float((a - b).abs().max()) for a, b in zip(expected, actual, strict=True) if a.numel()), default=0.0)
    scale = max((float(output.abs().max()) for output in expected if output.numel()), default=0.0)
    relative = error / scale if scale > 0 else infinite
    if choices is not None and choices.made:
        nothing = not any(output.numel() for output in expected)
        error = max(error, choices.max_abs_error)
        relative = max(0.0 if nothing else relative, choices.max_rel_error)
    return Certificate(kind, error, relative, ok=relative <= tolerance, tolerance=tolerance)


def _unchanged(dense: nn.Module, slim: nn.Module) -> list[str]:
    """List the convolutions and linear layers that keep all their filters."""
    rows = {name: module.weight.shape for name, module in dense.named_modules() if has_filters(module)}
    return [name for name, module in slim.named_modules() if name in rows and module.weight.shape[:1] == rows[name][:1]]


def with_nonzero_params(module: nn.Module) -> nn.Module:
    """Copy a module and fill its all-zero parameters with seeded noise."""
    copied = copy_module(module)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in copied.parameters():
            if not parameter.any():
                parameter.normal_(generator=random)
    return copied
