"""Agreement of a slim model with the dense one, without labels, on samples that nothing was chosen by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from compressor.batches import batch_length, output_batch_dims, with_dims
from compressor.core import BatchDims, Data, ModelSpec
from compressor.tensors import Inputs, call_module, tree_leaves, tree_names

LEAST_SQUARES = 1e-12  # a sum of squares below it is no scale for a distance


@dataclass(frozen=True, slots=True)
class OutputAgreement:
    """One output tensor of the slim model against the dense one's."""

    name: str
    relative_error: float  # ||slim - dense|| / ||dense|| over all samples
    top1: float | None = None  # share of samples, or of pixels, with the same largest class; None without classes
    kl: float | None = None  # mean KL(dense || slim) in nats of a sample or pixel

    @property
    def divergence(self) -> float:
        """The measure for choices: KL for class scores, the relative error otherwise."""
        return self.relative_error if self.kl is None else self.kl

    @property
    def squared_divergence(self) -> float:
        """KL, or the squared relative error: both grow with the square of a small change, so that they add up."""
        return self.relative_error**2 if self.kl is None else max(0.0, self.kl)


@dataclass(frozen=True, slots=True)
class Agreement:
    """All outputs of a model, in their order."""

    samples: int
    outputs: tuple[OutputAgreement, ...]

    @property
    def divergence(self) -> float:
        """The mean over outputs."""
        return sum(output.divergence for output in self.outputs) / max(1, len(self.outputs))

    @property
    def class_scores(self) -> OutputAgreement | None:
        """The first output with class scores, if there is one."""
        return next((output for output in self.outputs if output.top1 is not None), None)


def classes_scored(spec: ModelSpec, data: Data) -> int | None:
    """Look up how many classes the outputs of a model score.

    Args:
        spec: The model, which knows its number of classes.
        data: The data, whose task says that outputs are values.

    Returns:
        The number; 0 = the outputs are values, None = not known.
    """
    return 0 if data.num_classes == 0 else spec.num_classes


def is_class_scores(output: Tensor, num_classes: int | None = None, batch_dim: int | None = 0) -> bool:
    """Whether an output holds scores of classes.

    Args:
        output: (B, K): scores unless its rows have unit length, as embeddings have. (B, K, H, W): scores of pixels
            where K is the number of classes.
        num_classes: What `classes_scored` returns.
        batch_dim: Where the output has its samples; only with samples first it is one of these.

    Returns:
        True for scores. Everything else is compared by its values.
    """
    if num_classes == 0 or batch_dim != 0:
        return False
    if not output.is_floating_point() or output.ndim not in (2, 4) or output.shape[1] < 2:
        return False
    if output.ndim == 4:
        return output.shape[1] == num_classes
    lengths = output.detach().float().norm(dim=1)
    return not bool(torch.allclose(lengths, torch.ones_like(lengths), atol=1e-3))


def relative_square(error: Tensor, reference: Tensor) -> Tensor:
    """Compute `|error|^2 / |reference|^2`; the mean square of `error` where the reference is zero, as of dead channels.

    Args:
        error: Differences of any shape.
        reference: What they are relative to, of the same shape.

    Returns:
        A scalar.
    """
    squares = reference.square().sum()
    return error.square().sum() / torch.where(squares > LEAST_SQUARES, squares, error.numel())


class AgreementMeter:
    """Sums over batches of outputs."""

    def __init__(self, num_classes: int | None = None, output_dims: BatchDims | None = None) -> None:
        """Start without samples.

        Args:
            num_classes: What `classes_scored` returns.
            output_dims: What `output_batch_dims` returns.
        """
        self._num_classes, self._output_dims = num_classes, output_dims
        self._samples = 0
        self._names: list[str] = []
        self._sums: Tensor | None = None  # (outputs, 5)

    def update(self, dense: object, slim: object, samples: int) -> None:
        """Add the outputs of both models on one batch.

        Args:
            dense: The dense model's output, any tree of tensors.
            slim: The slim model's output, of the same structure.
            samples: How many the batch has.
        """
        leaves = with_dims(tree_leaves(dense), self._output_dims)
        sums = [_sums(a, b, self._num_classes, dim) for (a, dim), b in zip(leaves, tree_leaves(slim), strict=True)]
        rows = torch.stack([torch.stack(row) for row in sums])
        self._names, self._samples = tree_names(dense), self._samples + samples
        self._sums = rows if self._sums is None else self._sums + rows

    def compute(self) -> Agreement:
        """Compute the agreement over all batches."""
        assert self._sums is not None, "no batch was added"
        outputs = []
        for name, (difference, size, positions, same, divergence) in zip(self._names, self._sums.tolist(), strict=True):
            error = (difference / size) ** 0.5 if size else float(difference > 0)
            scores = (same / positions, divergence / positions) if positions else (None, None)
            outputs.append(OutputAgreement(name, error, *scores))
        return Agreement(self._samples, tuple(outputs))


def measure_agreement(
    dense: nn.Module,
    slim: nn.Module,
    batches: Iterable[Inputs],
    num_classes: int | None = None,
    batch_dims: BatchDims | None = None,
) -> Agreement:
    """Run both models on the same samples and compare all their outputs.

    Args:
        dense: The model before pruning, in eval mode.
        slim: The model to judge, in eval mode.
        batches: Inputs of both models.
        num_classes: What `classes_scored` returns.
        batch_dims: Batch dimension of each input; None = the first of all.

    Returns:
        The agreement of every output tensor.
    """
    return measure_agreements(dense, (slim,), batches, num_classes, batch_dims)[0]


def measure_agreements(
    dense: nn.Module,
    modules: Sequence[nn.Module],
    batches: Iterable[Inputs],
    num_classes: int | None = None,
    batch_dims: BatchDims | None = None,
) -> list[Agreement]:
    """Measure the agreement of several models with the dense one, which runs once.

    Args:
        dense: The model before pruning, in eval mode.
        modules: The models to judge, in eval mode.
        batches: Inputs of all models.
        num_classes: What `classes_scored` returns.
        batch_dims: Batch dimension of each input; None = the first of all.

    Returns:
        The agreement of each model.
    """
    batches = iter(batches)
    first = next(batches)
    output_dims = output_batch_dims(dense, first, batch_dims)
    meters = [AgreementMeter(num_classes, output_dims) for _ in modules]
    with torch.inference_mode():
        for inputs in chain([first], batches):
            answer, samples = call_module(dense, inputs), batch_length(inputs, batch_dims)
            for meter, module in zip(meters, modules, strict=True):
                meter.update(answer, call_module(module, inputs), samples)
    return [meter.compute() for meter in meters]


def _sums(dense: Tensor, slim: Tensor, num_classes: int | None, batch_dim: int | None) -> list[Tensor]:
    """Squared difference and squared size; for class scores also positions, equal classes and divergence."""
    a, b = dense.detach().double(), slim.detach().double()
    zero = torch.zeros((), dtype=torch.float64, device=a.device)
    sums = [(a - b).square().sum(), a.square().sum(), zero, zero, zero]
    if is_class_scores(dense, num_classes, batch_dim):
        log_dense, log_slim = a.log_softmax(1), b.log_softmax(1)
        same = (a.argmax(1) == b.argmax(1)).double()
        sums[2:] = [zero + same.numel(), same.sum(), (log_dense.exp() * (log_dense - log_slim)).sum()]
    return sums
