"""The steps of N:M sparsity: channels in another order, masks, and what training made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from compressor.core import Certificate, ChannelGroup, Emit, Kept, LoadedModel, Mask, Permute
from compressor.errors import ModelError, VerificationFailed
from compressor.graph.analyse import analyse
from compressor.graph.reorder import Orders, kept_reordered, movable, prove, reordered
from compressor.sparsity.layers import candidates, masked, weights
from compressor.sparsity.outcome import Outcome, outcome
from compressor.sparsity.pattern import holds, magnitude_mask
from compressor.sparsity.permute import best_orders
from compressor.sparsity.straight_through import Regrow

WEIGHTS = "masked-weights"
"""Kind of the certificate that every masked weight is what it was or zero, and that every group keeps its pattern."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """A model that computes what it did, with the channels of some groups in another order."""

    module: nn.Module
    kept: Kept
    groups: tuple[ChannelGroup, ...]
    orders: Orders
    certificate: Certificate
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Masked:
    """A model with zeros where masks are False, and what its training may go on from."""

    module: nn.Module
    masks: Mapping[str, Tensor]
    certificate: Certificate
    outcome: Outcome
    regrow: Regrow | None


def permute(model: LoadedModel, step: Permute, *inputs: Tensor, seed: int, emit: Emit) -> Ordered:
    """Find the order of channels in which masks keep most, and prove on `inputs` that the function is the same."""
    before = outcome(model.module, step.sparsity)
    taken = weights(model.module, candidates(model.module, step.sparsity))
    # Norms work the same in any order, so the channels they mix are free to move.
    groups = analyse(model.module, *(each[:1] for each in inputs), name=model.name, mixing=True).groups
    groups = movable(model.module, [group for group in groups if group.frozen is None], *inputs)

    def told(done: int, total: int) -> None:
        emit("progress", {"done": done, "total": total, "what": "rounds of the search for an order"})

    orders = best_orders(taken, groups, step.sparsity.pattern, rounds=step.rounds, seed=seed, told=told)
    certificate = prove(model.module, groups, orders, *inputs)
    if not certificate.ok:
        found = f"channels in another order change the answer by {certificate.max_rel_error:.1e} of the largest output"
        raise VerificationFailed("permutation", model.name, found, "report this model; set prune.2of4.permute: false")
    module = reordered(model.module, groups, orders)
    emit("note", {"text": f"{len(orders)} of {len(groups)} groups of channels put into another order"})
    kept = kept_reordered(model.kept, groups, orders, module)
    return Ordered(module, kept, groups, orders, certificate, outcome(module, step.sparsity, before))


def mask(model: LoadedModel, step: Mask, earlier: Outcome | None) -> Masked:
    """Put zeros in their places. A mask that no layer can take is a failure: nobody asks for one.

    `earlier`: what masks would have kept before channels were put in order.
    """
    pattern = step.sparsity.pattern
    found = candidates(model.module, step.sparsity)
    dense = weights(model.module, found)
    if not dense:
        reasons = sorted({each.reason for each in found if each.reason})
        words = f"no layer can be masked {pattern} ({'; '.join(reasons[:3]) or 'no convolution or linear layer'})"
        raise ModelError("nothing to mask", model.name, words, "choose another prune.2of4.runtime or pattern")
    masks = {name: magnitude_mask(weight, pattern) for name, weight in dense.items()}
    module = masked(model.module, masks)
    sparse = weights(module, found)
    error = max(float((sparse[name] - dense[name] * mask).abs().max()) for name, mask in masks.items())
    ok = error == 0 and all(holds(weight, pattern) for weight in sparse.values())
    certificate = Certificate(WEIGHTS, error, error, ok)
    regrow = None if step.regrow is None else Regrow(pattern, step.regrow, dense)
    return Masked(module, masks, certificate, outcome(model.module, step.sparsity, earlier), regrow)


def still_masked(module: nn.Module, masks: Mapping[str, Tensor], regrow: Regrow | None) -> Mapping[str, Tensor]:
    """The masks after a training: those it found where it was free to, and else the ones there were.

    Raises VerificationFailed where a weight that was masked came back.
    """
    values = {name: module.get_parameter(name).detach() for name in masks}
    if regrow is not None:
        masks = {name: magnitude_mask(weight, regrow.pattern) for name, weight in values.items()}
    revived = [name for name, weight in values.items() if bool(weight[~masks[name]].any())]
    if revived:
        found = f"{len(revived)} of {len(values)} masked weights have values where zeros were"
        raise VerificationFailed("masks", revived[0], found, "report this model")
    return masks
