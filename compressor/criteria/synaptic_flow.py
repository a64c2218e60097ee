"""What every weight carries of a network's flow: a score that needs no data."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compressor.core import SynapticFlow
from compressor.tensors import tree_leaves


def synaptic_flow_scores(module: nn.Module, flow: SynapticFlow, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Parameter name -> what each entry matters for. `module` stays as it is.

    R is the sum of all answers to ones in the shapes of `inputs`, in eval mode, with parameters and buffers at their
    absolute values; `value(|w|, dR/d|w|)` in float64, for products over many layers leave the range of float32.
    Tanaka, Kunin, Yamins and Ganguli, Pruning neural networks without any data by iteratively conserving synaptic flow,
    NeurIPS 2020, arXiv:2006.05467.
    """
    positive = copy.deepcopy(module).double().eval()
    with torch.no_grad():
        for each in (*positive.parameters(), *positive.buffers()):
            if each.is_floating_point():
                each.abs_()
    parameters = {name: each for name, each in positive.named_parameters() if each.is_floating_point()}
    for each in parameters.values():
        each.requires_grad_(True)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # for tensors that the module's code makes on the way
    try:
        ones = [torch.ones_like(each, dtype=torch.float64 if each.is_floating_point() else None) for each in inputs]
        answers = [each.sum() for each in tree_leaves(positive(*ones)) if each.is_floating_point()]
    finally:
        torch.set_default_dtype(before)
    slopes = torch.autograd.grad(torch.stack(answers).sum(), list(parameters.values()), allow_unused=True)
    return {
        name: flow.value(each.detach(), torch.zeros_like(each) if slope is None else slope)
        for (name, each), slope in zip(parameters.items(), slopes, strict=True)
    }
