"""Models that run on few inputs only are run on samples of the user's example."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import compressor
from compressor.models.inputs.example_inputs import example_inputs
from compressor.models.source import load_model
from compressor.models.user_modules.given_module import model_in_memory

CODE = '''
import torch
from torch import nn

class Table(nn.Module):
    """Two columns of categories, of which the first has three and the second thirty, beside a price."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Embedding(3, 8), nn.Embedding(30, 8)
        self.hidden, self.head = nn.Linear(17, 12), nn.Linear(12, 2)

    def forward(self, categories, price):
        rows = [self.first(categories[:, 0]), self.second(categories[:, 1]), price.log()]
        return self.head(self.hidden(torch.cat(rows, 1)).relu())

def table():
    return Table()

def example_inputs():
    return torch.tensor([[0, 29], [2, 7], [1, 0]]), torch.tensor([[10.0], [20.0], [30.0]])
'''


class Logarithm(nn.Module):
    """Takes positive numbers; the batch is second."""

    def __init__(self, takes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(takes, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.log()).mean(0)


def test_samples_of_several_inputs_remain_together(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE)
    model = load_model(f"{tmp_path}/net.py:table")
    pairs = {(0, 29): 10.0, (2, 7): 20.0, (1, 0): 30.0}
    categories, price = example_inputs(model, 5)
    rows = [tuple(row) for row in categories.tolist()]
    assert price.flatten().tolist() == [pairs[row] for row in rows]
    numbers = [list(pairs).index(row) for row in rows]
    assert numbers == sorted(numbers)  # in the order of the example
    assert set(numbers) == {0, 1, 2}
    first = {tuple(example_inputs(model, 1, seed=seed)[0][0].tolist()) for seed in range(8)}
    assert first == set(pairs)


def test_the_samples_are_in_the_output_folder(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE)
    out = tmp_path / "out"
    overrides = {"bench.target": "none"}
    report = compressor.compress(f"{tmp_path}/net.py:table", "l1", out=out, overrides=overrides).report
    assert report["certificate"]["ok"]
    assert report["onnx"]["ok"]
    assert load_model(str(out)).spec.inputs == load_model(f"{tmp_path}/net.py:table").spec.inputs


@pytest.mark.parametrize(("example", "samples"), [(torch.rand(3, 5, 4) + 0.1, 5), (torch.rand(3, 20, 4) + 0.1, 16)])
def test_the_samples_of_an_example_whose_batch_is_not_first(example: Tensor, samples: int) -> None:
    model = model_in_memory(Logarithm(4), example_inputs=example, batch_dim=1)
    assert model.spec.inputs[0].held_samples == samples
    (drawn,) = example_inputs(model, 2, seed=1)
    assert all((example == sample[:, None]).all((0, 2)).any() for sample in drawn.unbind(1))


@pytest.mark.parametrize(
    ("module", "example"),
    [
        (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.rand(2, 4)),
        (Logarithm(4), -torch.ones(3, 2, 4)),  # its own example is not finite, either
        (nn.Sequential(nn.Embedding(30, 8), nn.Flatten(), nn.Linear(16, 2)), torch.tensor([[3, 29]])),
    ],
)
def test_other_models_are_run_on_random_inputs(module: nn.Module, example: Tensor) -> None:
    assert model_in_memory(module, example_inputs=example).spec.inputs[0].values is None
