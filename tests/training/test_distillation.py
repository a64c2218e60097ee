"""Distillation without labels: the distance of any answers, kept teacher answers, and training by them alone."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from toys import SGD, quiet

from compressor.agreement import is_class_scores
from compressor.data.samples import Samples, TensorInputs
from compressor.errors import RecipeError
from compressor.steps.train import Train
from compressor.training.distillation import TeacherAnswers, answer_distance, divergence
from compressor.training.loop import train
from compressor.training.schedules import constant
from compressor.training.train_settings import Distillation

STEP = Train(
    epochs=30, batch_size=16, optimizer=replace(SGD, lr=0.02, weight_decay=0.0), schedule=constant(), precision="fp32",
    distill=Distillation(temperature=2.0, labels=False),
)  # fmt: skip


@dataclass
class Answer:
    tokens: Tensor
    length: Tensor


class TwoInputs(nn.Module):
    """Two inputs, and a dataclass with a sequence of vectors and a count for an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, a: Tensor, b: Tensor) -> Answer:
        return Answer(self.a(a) + self.b(b)[:, None], torch.full((len(a),), a.shape[1]))


def samples(*shapes: tuple[int, ...], count: int = 80) -> Samples:
    random = torch.Generator().manual_seed(0)
    tensors = tuple(torch.randn(count, *shape, generator=random) for shape in shapes)
    return Samples("toy", TensorInputs(tensors, [f"row {row}" for row in range(count)]))


def test_scores_are_compared_by_divergence_and_everything_else_by_relative_error() -> None:
    scores, taught = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[2.0, 0.0, 4.0]])
    boxes, taught_boxes = torch.tensor([[[1.0, 2.0]], [[5.0, 4.0]]]), torch.tensor([[[1.0, 3.0]], [[5.0, 3.0]]])
    squares = (1 + 1) / (4 + 0 + 4 + 0)  # errors, and the teacher's distances from its mean of 3
    both = answer_distance(
        {"s": scores, "b": boxes, "n": torch.tensor([1])}, [taught, taught_boxes, torch.tensor([2])], 2.0
    )
    assert both.item() == pytest.approx((divergence(scores, taught, 2.0).item() + squares) / 2, rel=1e-6)
    assert answer_distance(taught_boxes, taught_boxes, 2.0).item() == 0
    assert answer_distance(torch.tensor([[1.5]]), torch.tensor([[1.0]]), 1.0).item() == 0.25, "one value has no spread"
    with pytest.raises(RecipeError):
        answer_distance(torch.tensor([1]), torch.tensor([2]), 2.0)


def test_embeddings_of_unit_length_are_no_scores() -> None:
    vectors = torch.randn(5, 7)
    assert is_class_scores(vectors)
    assert not is_class_scores(nn.functional.normalize(vectors))
    assert not is_class_scores(vectors[:, :1])
    assert not is_class_scores(vectors[None])


def test_outputs_of_regression_are_no_scores() -> None:
    taught = torch.tensor([[1.0, 2.0, 6.0]])
    assert not is_class_scores(taught, num_classes=0)
    # Probabilities do not change if all scores grow by 1; values do, and lie 2, 1 and 3 from their mean.
    assert answer_distance(taught + 1, taught, 1.0).item() == pytest.approx(0, abs=1e-6)
    assert answer_distance(taught + 1, taught, 1.0, num_classes=0).item() == pytest.approx(3 / (4 + 1 + 9))


def test_a_teacher_answers_a_row_once() -> None:
    calls = []

    def teacher(inputs: Tensor) -> Tensor:
        calls.append(len(inputs))
        return inputs * 2

    inputs, rows = torch.arange(12.0).reshape(6, 2), torch.arange(6)
    answers = TeacherAnswers(teacher)
    answers(inputs[:4], rows[:4]), answers(inputs[4:], rows[4:])
    (again,) = answers(inputs[[5, 0]], rows[[5, 0]])
    assert torch.equal(again, 2 * inputs[[5, 0]])
    assert calls == [4, 2]
    answers(inputs[:4], None)
    assert calls == [4, 2, 4]
    small = TeacherAnswers(teacher, limit=1)
    small(inputs[:4], rows[:4]), small(inputs[4:], rows[4:]), small(inputs[4:], rows[4:])
    assert len(calls) == 6, "beyond the limit nothing more is kept"


def test_answers_with_time_first_are_kept_by_sample() -> None:
    inputs, rows = torch.randn(4, 4, 2), torch.arange(4)  # as many steps as samples
    answers = TeacherAnswers(lambda x: (x, x[0]), (1, 0))
    answers(inputs, rows)
    every, first = answers(inputs[:, [3, 1]], rows[[3, 1]])
    assert torch.equal(every, inputs[:, [3, 1]])
    assert torch.equal(first, inputs[0, [3, 1]])
    assert len(answers.cache) == 4


def test_steps_are_no_classes_and_a_mean_over_samples_is_no_answer() -> None:
    tags, loss = torch.randn(4, 4), torch.tensor(3.0)
    spread = (tags - tags.mean()).square().sum()
    far = answer_distance({"loss": loss + 1, "tags": tags + 0.5}, {"loss": loss, "tags": tags}, 2.0, (None, 1))
    assert far.item() == pytest.approx(16 * 0.25 / spread.item(), rel=1e-5)


@pytest.mark.parametrize("inputs", [((8,),), ((5, 4), (2,))])
def test_training_by_the_dense_models_answers_alone(inputs: tuple[tuple[int, ...], ...]) -> None:
    torch.manual_seed(0)
    dense = TwoInputs() if len(inputs) == 2 else nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    slim = copy.deepcopy(dense)
    with torch.no_grad():
        for parameter in slim.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    data = samples(*inputs)

    def distance_to_dense() -> float:
        batches = [(inputs if isinstance(inputs, tuple) else (inputs,)) for inputs, _ in data.val_batches(100)]
        with torch.no_grad():
            return answer_distance(slim(*batches[0]), dense(*batches[0]), 1.0).item()

    before = distance_to_dense()
    result = train(slim, data, STEP, seed=0, emit=quiet, teacher=dense)
    assert distance_to_dense() < before / 10
    assert len(result.records) == 30
    assert not {"held_out", "train_sample"} & set(result.records[-1])


def test_without_labels_and_without_a_teacher_there_is_nothing_to_learn() -> None:
    with pytest.raises(RecipeError):
        train(nn.Linear(8, 5), samples((8,)), replace(STEP, distill=None), seed=0, emit=quiet)
