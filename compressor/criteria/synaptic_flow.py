"""SynFlow: the share of a network's flow that passes through each weight, without data.

Tanaka, Kunin, Yamins and Ganguli, Pruning neural networks without any data by iteratively conserving synaptic flow,
NeurIPS 2020, arXiv:2006.05467.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressor.criteria.base import WEIGHTS_ONLY, ScoringContext

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class SynapticFlow:
    """Score a weight by `|w| dR/d|w|`.

    R is the sum of all outputs for an input of ones, with every parameter and buffer at its absolute value.
    """

    name: ClassVar[str] = "synflow"
    needs_data: ClassVar[bool] = False

    def score_weights(
        self,
        module: nn.Module,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        context: ScoringContext = WEIGHTS_ONLY,
    ) -> Mapping[str, Tensor]:
        """See `WeightCriterion`.

        Args:
            module: The network, in which masked weights are zero.
            weights: Not used.
            masks: Not used.
            context: Its example inputs give the shapes of the input of ones.

        Returns:
            Parameter name -> float64 scores.
        """
        return synaptic_flow(module, context.inputs)


def synaptic_flow(module: nn.Module, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Compute `|w| dR/d|w|` for every parameter, in eval mode.

    The computation is in float64, because products over many layers leave the range of float32.

    Args:
        module: The network; it is not changed.
        inputs: Tensors of the shapes and types that it takes.

    Returns:
        Parameter name -> float64 scores.
    """
    import torch

    from compressor.execution.copies import copy_module
    from compressor.tensors import named_tensors, tree_leaves

    positive = copy_module(module).double().eval()
    with torch.no_grad():
        for tensor in named_tensors(positive).values():
            if tensor.is_floating_point():
                tensor.abs_()
    parameters = {name: tensor for name, tensor in positive.named_parameters() if tensor.is_floating_point()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # for tensors that the module's own code creates
    try:
        ones = [torch.ones_like(x, dtype=torch.float64 if x.is_floating_point() else None) for x in inputs]
        flows = [output.sum() for output in tree_leaves(positive(*ones)) if output.is_floating_point()]
    finally:
        torch.set_default_dtype(default_dtype)
    gradients = torch.autograd.grad(torch.stack(flows).sum(), list(parameters.values()), allow_unused=True)
    return {
        name: parameter.detach() * (torch.zeros_like(parameter) if gradient is None else gradient)
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }
