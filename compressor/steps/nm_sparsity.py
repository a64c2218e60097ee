"""The steps of N:M sparsity: channels in another order, masks, and what training made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from compressor.core import Certificate, ChannelGroup, EventSink, KeptIndices, LoadedModel, MaskNM, PermuteChannels
from compressor.errors import ModelError, VerificationFailed
from compressor.sparsity.masking import apply_masks, candidates, weights_of
from compressor.sparsity.nm_masks import magnitude_mask, satisfies_pattern
from compressor.sparsity.permutation_search import best_orders
from compressor.sparsity.retained_magnitude import RetainedMagnitude, measure_retained
from compressor.sparsity.sr_ste import SRSTEState
from compressor.surgery.analysis import analyze
from compressor.surgery.permutation import (
    Orders,
    certify_permutation,
    permutable_groups,
    permute_channels,
    permute_kept,
)

WEIGHTS = "masked-weights"
"""Kind of the certificate that every masked weight is what it was or zero, and that every group keeps its pattern."""


@dataclass(frozen=True, slots=True)
class PermutationResult:
    """A model that computes what it did, with the channels of some groups in another order."""

    module: nn.Module
    kept: KeptIndices
    groups: tuple[ChannelGroup, ...]
    orders: Orders
    certificate: Certificate
    outcome: RetainedMagnitude


@dataclass(frozen=True, slots=True)
class NMResult:
    """A model with zeros where masks are False, and what its training may go on from."""

    module: nn.Module
    masks: Mapping[str, Tensor]
    certificate: Certificate
    outcome: RetainedMagnitude
    regrow: SRSTEState | None


def permute_for_nm(
    model: LoadedModel, step: PermuteChannels, *inputs: Tensor, seed: int, emit: EventSink
) -> PermutationResult:
    """Find the order of channels in which masks keep most, and prove on `inputs` that the function is the same."""
    before = measure_retained(model.module, step.sparsity)
    taken = weights_of(model.module, candidates(model.module, step.sparsity))
    # Norms work the same in any order, so the channels they mix are free to move.
    groups = analyze(model.module, *(each[:1] for each in inputs), name=model.name, mixing=True).groups
    groups = permutable_groups(model.module, [group for group in groups if group.frozen is None], *inputs)

    def told(done: int, total: int) -> None:
        emit("progress", {"done": done, "total": total, "what": "rounds of the search for an order"})

    orders = best_orders(taken, groups, step.sparsity.pattern, rounds=step.rounds, seed=seed, told=told)
    certificate = certify_permutation(model.module, groups, orders, *inputs)
    if not certificate.ok:
        problem = f"reordering the channels changes the outputs by {certificate.max_rel_error:.1e} of the largest"
        raise VerificationFailed(
            "permutation/outputs-differ",
            model.name,
            problem,
            "set prune.2of4.permute: false, and report this with the model's name",
        )
    module = permute_channels(model.module, groups, orders)
    emit("note", {"text": f"{len(orders)} of {len(groups)} groups of channels put into another order"})
    kept = permute_kept(model.kept, groups, orders, module)
    return PermutationResult(module, kept, groups, orders, certificate, measure_retained(module, step.sparsity, before))


def mask_nm(model: LoadedModel, step: MaskNM, earlier: RetainedMagnitude | None) -> NMResult:
    """Put zeros in their places. A mask that no layer can take is a failure: nobody asks for one.

    `earlier`: what masks would have kept before channels were put in order.
    """
    pattern = step.sparsity.pattern
    found = candidates(model.module, step.sparsity)
    dense = weights_of(model.module, found)
    if not dense:
        reasons = sorted({each.reason for each in found if each.reason})
        problem = (
            f"no layer can be masked {pattern} ({'; '.join(reasons[:3]) or 'it has no convolution or linear layer'})"
        )
        raise ModelError(
            "nothing-to-mask/no-eligible-layer", model.name, problem, "choose another prune.2of4.runtime or pattern"
        )
    masks = {name: magnitude_mask(weight, pattern) for name, weight in dense.items()}
    module = apply_masks(model.module, masks)
    sparse = weights_of(module, found)
    error = max(float((sparse[name] - dense[name] * mask_nm).abs().max()) for name, mask_nm in masks.items())
    ok = error == 0 and all(satisfies_pattern(weight, pattern) for weight in sparse.values())
    certificate = Certificate(WEIGHTS, error, error, ok)
    regrow = None if step.regrow is None else SRSTEState(pattern, step.regrow, dense)
    return NMResult(module, masks, certificate, measure_retained(model.module, step.sparsity, earlier), regrow)


def still_masked(module: nn.Module, masks: Mapping[str, Tensor], regrow: SRSTEState | None) -> Mapping[str, Tensor]:
    """The masks after a training: those it found where it was free to, and else the ones there were.

    Raises VerificationFailed where a weight that was masked came back.
    """
    values = {name: module.get_parameter(name).detach() for name in masks}
    if regrow is not None:
        masks = {name: magnitude_mask(weight, regrow.pattern) for name, weight in values.items()}
    revived = [name for name, weight in values.items() if bool(weight[~masks[name]].any())]
    if revived:
        problem = f"{len(revived)} of {len(values)} masked weights are no longer zero where they were masked"
        raise VerificationFailed("masks/zeros-revived", revived[0], problem, "report this with the model's name")
    return masks
