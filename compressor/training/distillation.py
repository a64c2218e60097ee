"""Learning from the dense model: its answers softened, and its feature maps where the slim model's have their shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Maps = dict[str, Tensor]
"""module name -> what it returned last"""


def divergence(logits_BK: Tensor, taught_BK: Tensor, temperature: float) -> Tensor:
    """`T^2 KL(softmax(taught / T) || softmax(logits / T))`, the mean over the batch.

    T^2 keeps its gradients at the scale of the task's. Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural
    Network, 2015, arXiv:1503.02531.
    """
    log_p = F.log_softmax(logits_BK / temperature, dim=1)
    log_q = F.log_softmax(taught_BK / temperature, dim=1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=1).mean() * temperature**2


def distance(maps: Mapping[str, Tensor], taught: Mapping[str, Tensor], names: tuple[str, ...]) -> Tensor:
    """Mean over the named maps of `|f - g|^2 / |g|^2`, g the dense model's.

    Relative, so that a layer with large activations does not outweigh the others. After Romero et al., FitNets, ICLR
    2015, arXiv:1412.6550, without their regressor: only maps of the same shape are compared.
    """
    pairs = [(maps[name].float(), taught[name].float()) for name in names]  # a sum of squares goes beyond 65504
    terms = [(f - g).square().sum() / g.square().sum() for f, g in pairs]
    return torch.stack(terms).mean()


def feature_matching(student: nn.Module, teacher: nn.Module, images: Tensor) -> tuple[str, ...]:
    """Modules to compare: for each size of feature map, the last to return one of the same shape in both models.

    Maps are (B, C, H, W), or tokens (B, N, C).
    """
    with torch.no_grad(), record_features(student) as ours, record_features(teacher) as theirs:
        for module in (student, teacher):
            mode = module.training
            module.eval()(images)
            module.train(mode)
    shared = [name for name, map in ours.items() if name in theirs and theirs[name].shape == map.shape]
    last = {ours[name].shape: name for name in shared if ours[name].ndim in (3, 4) and ours[name].is_floating_point()}
    return tuple(last.values())


@contextmanager
def record_features(module: nn.Module, names: tuple[str, ...] | None = None) -> Iterator[Maps]:
    """The tensors that the named submodules (None = all) return, anew with each forward pass, in order of running."""
    maps: Maps = {}

    def keep(name: str, output: object) -> None:
        if isinstance(output, Tensor):
            maps.pop(name, None)
            maps[name] = output

    handles = [
        each.register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output))
        for name, each in module.named_modules()
        if name and (names is None or name in names)
    ]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()
