"""Distances between the outputs and feature maps of a network and of its teacher, the dense model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.agreement import is_class_scores, relative_square
from compressor.batches import with_dims
from compressor.core import BatchDims
from compressor.errors import RecipeError
from compressor.layers import observe_outputs
from compressor.tensors import Inputs, call_module, tree_leaves

Maps = dict[str, Tensor]
"""module name -> the tensor it returned last"""


def divergence(logits_BK: Tensor, taught_BK: Tensor, temperature: float) -> Tensor:
    """Compute `T^2 KL(softmax(taught / T) || softmax(logits / T))`, the mean over the batch.

    The factor T^2 keeps the gradients at the scale of those of the task. Hinton, Vinyals and Dean, Distilling the
    Knowledge in a Neural Network, 2015, arXiv:1503.02531.

    Args:
        logits_BK: Logits of the student.
        taught_BK: Logits of the teacher.
        temperature: T.

    Returns:
        A scalar, 0 if both distributions are equal.
    """
    log_p = F.log_softmax(logits_BK / temperature, dim=1)
    log_q = F.log_softmax(taught_BK / temperature, dim=1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=1).mean() * temperature**2


def answer_distance(
    answer: Any,
    taught: Any,
    temperature: float,
    output_dims: BatchDims | None = None,
    num_classes: int | None = None,
) -> Tensor:
    """Compute the distance between the outputs of a network and of its teacher, for outputs of any kind.

    It is `T^2 KL` for scores of classes (B, K) and `|f - g|^2 / |g - mean g|^2` for every other floating-point output,
    g the teacher's; the mean over all outputs that have samples.

    Args:
        answer: The student's output for a batch, any tree of tensors.
        taught: The teacher's, of the same shapes.
        temperature: T, which scores of classes are divided by.
        output_dims: What `output_batch_dims` returns for the networks.
        num_classes: Classes that the outputs score; 0 = they are values, None = not known.

    Returns:
        A scalar, 0 if both are equal.

    Raises:
        RecipeError: No output can be compared.
    """
    terms = []
    for f, (g, dim) in zip(tree_leaves(answer), with_dims(tree_leaves(taught), output_dims), strict=True):
        if dim is None or not g.is_floating_point() or not g.numel() or f.shape != g.shape:
            continue  # means over samples answer none, indices have no gradient, detections may differ in number
        if is_class_scores(g, num_classes, dim):
            terms.append(divergence(f, g, temperature))
        else:
            terms.append(relative_square(f - g, g - g.mean()))
    if not terms:
        problem = "the model answers with no floating-point tensor of the dense model's shape"
        raise RecipeError("retrain/no-comparable-answers", "retrain.distill", problem, "set retrain.epochs=0")
    return torch.stack(terms).mean()


@dataclass(slots=True)
class TeacherAnswers:
    """The outputs of the teacher, cached by row of the samples."""

    teacher: Callable[[Inputs], Any]
    output_dims: BatchDims | None = None  # what `output_batch_dims` returns for it
    limit: int = 2**28  # bytes of the cache
    cache: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)
    bytes: int = 0  # in the cache
    full: bool = False

    def __call__(self, inputs: Inputs, rows: Tensor | None) -> Any:
        """Compute the teacher's output for a batch, or take it from the cache.

        Args:
            inputs: The batch.
            rows: Rows of its samples (B,); None if inputs change from epoch to epoch, as by augmentation.

        Returns:
            The output; a list of its tensors if it was cached.
        """
        if rows is None:
            return self.teacher(inputs)
        samples = rows.tolist()
        if all(row in self.cache for row in samples):
            columns = list(zip(*(self.cache[row] for row in samples), strict=True))
            pairs = with_dims(columns, self.output_dims)
            return [torch.stack(column, dim) for column, dim in pairs if dim is not None]
        answer = self.teacher(inputs)
        leaves = tree_leaves(answer)
        parts = with_dims(leaves, self.output_dims)
        has_part_per_sample = all(
            dim is not None and leaf.ndim > dim and leaf.shape[dim] == len(samples) for leaf, dim in parts
        )
        if has_part_per_sample and not self.full:
            self.bytes += sum(leaf.nbytes for leaf in leaves)
            self.full = self.bytes > self.limit
            by_sample = zip(*(leaf.unbind(dim) for leaf, dim in parts if dim is not None), strict=True)
            self.cache |= dict(zip(samples, by_sample, strict=True))
        return answer


def feature_distance(maps: Mapping[str, Tensor], taught: Mapping[str, Tensor], names: tuple[str, ...]) -> Tensor:
    """Compute the mean over feature maps of `|f - g|^2 / |g|^2`, g the teacher's.

    The distance is relative, so that a layer with large activations does not outweigh the others. After Romero et al.,
    FitNets, ICLR 2015, arXiv:1412.6550, without their regressor: only maps of the same shape are compared.

    Args:
        maps: Feature maps of the student by module name.
        taught: Feature maps of the teacher.
        names: The maps to compare.

    Returns:
        A scalar.
    """
    pairs = [(maps[name].float(), taught[name].float()) for name in names]  # sums of squares may exceed 65504
    return torch.stack([relative_square(f - g, g) for f, g in pairs]).mean()


def feature_matching(student: nn.Module, teacher: nn.Module, inputs: Inputs) -> tuple[str, ...]:
    """Choose the modules whose feature maps are compared: for each shape of map, the last module that returns it.

    Args:
        student: The slim network.
        teacher: The dense model.
        inputs: A batch.

    Returns:
        Names of modules whose maps, (B, C, H, W) or tokens (B, N, C), have the same shape in both networks.
    """
    with torch.no_grad(), record_features(student) as maps, record_features(teacher) as teacher_maps:
        for module in (student, teacher):
            mode = module.training
            call_module(module.eval(), inputs)
            module.train(mode)
    last = {
        map.shape: name
        for name, map in maps.items()
        if map.ndim in (3, 4)
        and map.is_floating_point()
        and name in teacher_maps
        and teacher_maps[name].shape == map.shape
    }
    return tuple(last.values())


@contextmanager
def record_features(module: nn.Module, names: tuple[str, ...] | None = None) -> Iterator[Maps]:
    """Record the tensors that submodules return, of the latest forward pass.

    Args:
        module: The network.
        names: Its submodules; None = all.

    Yields:
        The tensors by module name, in the order in which the modules ran.
    """
    maps: Maps = {}

    def _record(name: str, output: object) -> None:
        if isinstance(output, Tensor):
            maps.pop(name, None)  # so that a module that runs again is last
            maps[name] = output

    observed = [name for name, _ in module.named_modules() if name] if names is None else names
    with observe_outputs(module, observed, _record):
        yield maps
