"""Learning from the dense model: its answers softened, and its feature maps where the slim model's have their shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.agreement import is_class_scores
from compressor.errors import RecipeError
from compressor.tensors import Inputs, call_module, tree_leaves

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


def answer_distance(answer: Any, taught: Any, temperature: float) -> Tensor:
    """How far a network's answers are from its teacher's, whatever they look like.

    `T^2 KL` for scores of classes (B, K), `|f - g|^2 / |g - mean g|^2` for every other floating output, g the
    teacher's; the mean over all outputs.

    Args:
        answer: the network's answer to a batch, any tree of tensors.
        taught: the teacher's, of the same shapes.
        temperature: T, which both scores are divided by.

    Returns:
        A scalar, 0 where both agree.
    """
    terms = []
    for f, g in zip(tree_leaves(answer), tree_leaves(taught), strict=True):
        if not g.is_floating_point() or not g.numel() or f.shape != g.shape:
            continue  # counts and indices have no gradient, and detections may differ in number
        if is_class_scores(g):
            terms.append(divergence(f, g, temperature))
        else:
            spread = (g - g.mean()).square().sum()
            terms.append((f - g).square().sum() / spread.clamp_min(1e-12))
    if not terms:
        problem = "the model answers with no floating-point tensor of the dense model's shape"
        raise RecipeError("retrain/no-comparable-answers", "retrain.distill", problem, "set retrain.epochs=0")
    return torch.stack(terms).mean()


@dataclass(slots=True)
class TeacherAnswers:
    """The teacher's answers, kept by row of the samples while they fit in `limit` bytes."""

    teacher: Callable[[Inputs], Any]
    limit: int = 2**28
    kept: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)
    bytes: int = 0
    full: bool = False

    def __call__(self, inputs: Inputs, rows: Tensor | None) -> Any:
        """Answer a batch.

        Args:
            inputs: the batch.
            rows: (B,) of its samples; None where inputs change from epoch to epoch, as by augmentation.

        Returns:
            The teacher's answer; a list of its tensors where it was kept.
        """
        numbers = None if rows is None else rows.tolist()
        if numbers is not None and all(number in self.kept for number in numbers):
            return [torch.stack(column) for column in zip(*(self.kept[number] for number in numbers), strict=True)]
        answer = self.teacher(inputs)
        leaves = tree_leaves(answer)
        by_sample = numbers is not None and all(leaf.ndim and len(leaf) == len(numbers) for leaf in leaves)
        if by_sample and numbers is not None and not self.full:
            self.bytes += sum(leaf.numel() * leaf.element_size() for leaf in leaves)
            self.full = self.bytes > self.limit
            self.kept |= {number: tuple(leaf[index] for leaf in leaves) for index, number in enumerate(numbers)}
        return answer


def distance(maps: Mapping[str, Tensor], taught: Mapping[str, Tensor], names: tuple[str, ...]) -> Tensor:
    """Mean over the named maps of `|f - g|^2 / |g|^2`, g the dense model's.

    Relative, so that a layer with large activations does not outweigh the others. After Romero et al., FitNets, ICLR
    2015, arXiv:1412.6550, without their regressor: only maps of the same shape are compared.
    """
    pairs = [(maps[name].float(), taught[name].float()) for name in names]  # a sum of squares goes beyond 65504
    terms = [(f - g).square().sum() / g.square().sum() for f, g in pairs]
    return torch.stack(terms).mean()


def feature_matching(student: nn.Module, teacher: nn.Module, inputs: Inputs) -> tuple[str, ...]:
    """Modules to compare: for each size of feature map, the last to return one of the same shape in both models.

    Maps are (B, C, H, W), or tokens (B, N, C).
    """
    with torch.no_grad(), record_features(student) as ours, record_features(teacher) as theirs:
        for module in (student, teacher):
            mode = module.training
            call_module(module.eval(), inputs)
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
