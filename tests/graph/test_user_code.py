"""Networks as people write them: every one is cut where it can be, exactly, and the rest says why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.budget.selection import select_channels
from compressor.budget.target import PruningTarget
from compressor.core import Freeze, PrunePlan
from compressor.criteria.magnitude import l1
from compressor.graph.cost import count_cost
from compressor.graph.dependency_graph import DependencyGraph
from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import certify_removal
from compressor.surgery.removal import remove_channels


class PaddedShortcut(nn.Module):
    """Channels that a shortcut lacks are zeros, by a number fixed in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = self.b(torch.relu(self.a(x))) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.head(x.mean((2, 3)))


class ConcatenatedZeros(PaddedShortcut):
    """The same, with zeros made on the spot."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = self.b(torch.relu(self.a(x)))
        short = x[:, :, ::2, ::2]
        return self.head((y + torch.cat([short, short.new_zeros(short.shape[0], 8, 4, 4)], 1)).mean((2, 3)))


class Heads(nn.Module):
    """One trunk, outputs in a dict, one of them written into a tensor made beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU())
        self.boxes, self.classes = nn.Conv2d(12, 4, 1), nn.Conv2d(12, 6, 1)

    def forward(self, x: Tensor) -> dict[str, object]:
        x = self.trunk(x)
        pooled = torch.zeros(x.shape[0], x.shape[1])
        pooled[torch.arange(x.shape[0])] = x.mean((2, 3))
        return {"boxes": self.boxes(x), "classes": [self.classes(pooled[:, :, None, None])]}


class Recurrent(nn.Module):
    """A convolution in front of an LSTM, and a layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 1))
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.hidden, self.head = nn.Linear(5, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.features(x).mean(2).transpose(1, 2)
        return self.head(torch.relu(self.hidden(self.lstm(rows)[0][:, -1])))


class Volume(nn.Module):
    """Images as volumes and as signals: 3-D and 1-D convolutions, and one module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8)
        self.twice = nn.Conv1d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.a(x.unsqueeze(1)))).flatten(2)
        return self.head(self.twice(torch.relu(self.twice(x))).mean(2))


class DecidedByValues(nn.Module):
    """Python control flow and shapes that depend on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        bright = x.mean((1, 2, 3)) > -1
        x = torch.relu(self.a(x))
        if bright.any():
            x = self.b(x)
        return self.head(x.mean((2, 3))[bright])


class Tied(nn.Module):
    """One weight that writes in one place and reads in another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mid, self.b = nn.Linear(48, 10), nn.Linear(10, 10), nn.Linear(10, 48)
        self.b.weight = nn.Parameter(torch.randn(48, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x.flatten(1)))
        return functional.linear(torch.relu(self.mid(x)), self.b.weight) + functional.linear(x, self.a.weight.t())


class GroupNormByHand(nn.Module):
    """Groups that a reshape splits off are normalised as if they were channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(torch.relu(self.a(x)))
        return self.c(functional.instance_norm(x.reshape(x.shape[0], 4, -1)).reshape(x.shape))


CASES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "padded shortcut": (PaddedShortcut, 1),
    "concatenated zeros": (ConcatenatedZeros, 1),
    "dict of heads": (Heads, 2),
    "lstm": (Recurrent, 2),
    "volume": (Volume, 1),
    "decided by values": (DecidedByValues, 2),
    "tied weights": (Tied, 1),
    "group norm by hand": (GroupNormByHand, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_cut_exactly_where_it_can_be(case: str) -> None:
    make, free = CASES[case]
    torch.manual_seed(0)
    module, inputs = make().eval(), torch.randn(1, 3, 4, 4) if case == "tied weights" else torch.randn(1, 3, 8, 8)
    structure = analyze(module, inputs, name=case)
    assert sum(group.frozen is None for group in structure.groups) >= free, [each.frozen for each in structure.groups]
    plan = third_less(module, structure, inputs)
    slim = remove_channels(module, structure, plan)
    assert certify_removal(module, slim, structure, plan, inputs).ok
    found, predicted = count_cost(slim, inputs), structure.cost.of(plan)
    assert found == predicted


def third_less(module: nn.Module, structure: DependencyGraph, inputs: Tensor) -> PrunePlan:
    graded = l1.score_channels(module, structure.groups)
    chosen = select_channels(
        structure.groups, graded, PruningTarget(ratio=0.34), structure.cost, count_cost(module, inputs)
    )
    return chosen[0]


class ShapedAsItCame(nn.Module):
    """Gives back the shape it was given, whatever became of its own width: both have to stay."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).flatten(1).reshape(x.shape)


def test_code_that_insists_on_the_width_it_was_given_is_left_whole_and_the_rest_goes_on() -> None:
    module = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 1), ShapedAsItCame(), nn.Conv2d(8, 2, 1))
    structure = analyze(module.eval(), torch.randn(1, 3, 4, 4), name="insists")
    frozen = {group.name: group.frozen for group in structure.groups}
    assert frozen["0"] is None
    assert frozen["2"] is not None
    assert "sizes fixed in the code" in frozen["2"].reason
    assert "test_user_code.py:" in frozen["2"].reason


class Words(nn.Module):
    """Two inputs, token ids and numbers, and an answer in a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.numbers = nn.Embedding(20, 12), nn.Linear(5, 12)
        self.hidden, self.head = nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, ids: Tensor, numbers: Tensor) -> Answer:
        x = self.words(ids).mean(1) + self.numbers(numbers)
        return Answer(self.head(torch.relu(self.hidden(torch.relu(x)))))


@dataclass
class Answer:
    logits: Tensor


def test_the_width_of_an_embedding_is_cut_with_what_is_added_to_it_and_the_answer_stays() -> None:
    torch.manual_seed(0)
    module, inputs = Words().eval(), (torch.randint(0, 20, (2, 4)), torch.randn(2, 5))
    structure = analyze(module, *inputs, name="words")
    groups = {group.name: group for group in structure.groups}
    assert groups["head"].frozen == Freeze("model", "output of the model")
    assert {slot.tensor for slot in groups["words"].writers()} == {"words.weight", "numbers.weight"}
    plan = PrunePlan({"words": np.arange(12) % 3 > 0, "hidden": np.arange(16) % 2 > 0})
    slim = remove_channels(module, structure, plan)
    assert slim.get_submodule("words").embedding_dim == 8
    assert certify_removal(module, slim, structure, plan, *inputs).ok
    assert count_cost(slim, *inputs) == structure.cost.of(plan)
