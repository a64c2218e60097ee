"""The batch dimension of an example is found by running samples alone and together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from exports import export_onnx
from failures import raises_error
from torch import Tensor, nn

from compressor.bench.runner.ort_session import make_feed
from compressor.core import LoadedModel, ModelInput, ModelSpec
from compressor.errors import ModelError
from compressor.export.onnx import split_batches
from compressor.models.inputs.batch_dims import find_batch_dims, with_batch_dim
from compressor.models.inputs.example_inputs import example_inputs
from compressor.models.inputs.user_inputs import inputs_like
from compressor.models.source import load_model


class Picture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).mean((2, 3))


class TimeFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][-1])


class TimeFirstWithLengths(TimeFirst):
    """The batch is second in the sequence and first in what goes with it."""

    def forward(self, x: Tensor, speaker: Tensor) -> Tensor:
        return super().forward(x) + speaker


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        nodes = self.layer(nodes)
        return nodes.index_add(0, edges[1], nodes[edges[0]])


class Shared(nn.Module):
    """One input is the same for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ self.layer(x)


class Noisy(Picture):
    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return (x + torch.randn_like(x)).mean((2, 3))


class Several(Picture):
    def forward(self, x: Tensor) -> dict[str, object]:
        return {"maps": [self.layer(x)], "sizes": super().forward(x).argmax(1)}


class Mixes(Picture):
    """Samples know of each other, as in a contrastive loss."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x - x.mean(0)


class TimeFirstWithLoss(TimeFirst):
    """A single number says nothing about the batch."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        answer = super().forward(x)
        return answer.square().mean(), answer


class OnlyLoss(Picture):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean()


PICTURE = torch.randn(2, 3, 6, 6)


@pytest.mark.parametrize(
    ("make", "examples", "dims"),
    [
        (Picture, [PICTURE], (0,)),
        (Noisy, [PICTURE], (0,)),
        (Several, [PICTURE], (0,)),
        (TimeFirst, [torch.randn(7, 1, 6)], (1,)),
        (TimeFirst, [torch.randn(7, 7, 6)], (1,)),
        (TimeFirstWithLoss, [torch.randn(7, 3, 6)], (1,)),
        (TimeFirstWithLengths, [torch.randn(7, 3, 6), torch.randn(3, 2)], (1, 0)),
        (Graph, [torch.randn(5, 4), torch.randint(0, 5, (2, 9))], (None, None)),
        (Shared, [torch.randn(2, 5, 4), torch.randn(5, 5)], (0, None)),
    ],
)
def test_batch_dimensions_are_found(
    make: type[nn.Module], examples: list[Tensor], dims: tuple[int | None, ...]
) -> None:
    torch.manual_seed(0)
    found, note = find_batch_dims(make().eval(), examples)
    assert found == dims
    assert (note is None) == (set(dims) == {0})


@pytest.mark.parametrize("make", [Mixes, OnlyLoss])
def test_where_none_is_seen_the_first_is_taken_and_said(make: type[nn.Module]) -> None:
    found, note = find_batch_dims(make().eval(), [PICTURE])
    assert found == (0,)
    assert note is not None


def test_examples_that_do_not_run_are_left_to_the_analysis() -> None:
    assert find_batch_dims(Picture().eval(), [torch.randn(2, 5, 6, 6)]) == ((0,), None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_an_example_without_samples_is_left_to_the_analysis(dtype: torch.dtype) -> None:
    inputs, _ = inputs_like(torch.zeros(0, 3, dtype=dtype), "net.py", nn.Identity(), "auto")
    assert [(one.dtype, one.integer_range) for one in inputs] == [
        ("float32", None) if dtype.is_floating_point else ("int64", (0, 0))
    ]


def test_examples_have_the_batch_where_it_is() -> None:
    inputs = (ModelInput((7, 6), batch_dim=1), ModelInput((3,)), ModelInput((5, 4), batch_dim=None))
    model = LoadedModel(nn.Identity(), ModelSpec("net", inputs), "net")
    assert [tuple(example.shape) for example in example_inputs(model, 2)] == [(7, 2, 6), (2, 3), (5, 4)]


@pytest.mark.parametrize(("dynamic", "sizes"), [(False, [1, 1, 1, 1, 1]), (True, [1, 2, 2])])
def test_samples_are_split_along_their_batch_dimension(dynamic: bool, sizes: list[int]) -> None:
    inputs = [torch.arange(35).reshape(7, 5), torch.arange(5), torch.ones(3)]
    batches = split_batches(inputs, dynamic, (1, 0, None))
    assert [batch[0].shape[1] for batch in batches] == sizes
    assert torch.equal(torch.cat([batch[0] for batch in batches], 1), inputs[0])
    assert torch.equal(torch.cat([batch[1] for batch in batches]), inputs[1])
    assert all(torch.equal(batch[2], inputs[2]) for batch in batches)
    assert split_batches(inputs, dynamic, (None,) * 3) == [tuple(inputs)]


CODE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.GRU(6, 5), nn.Linear(5, 2)
    def forward(self, x):
        return self.head(self.layer(x)[0][-1])
def make(): return Net()
def example_inputs(): return torch.randn(7, 1, 6)
"""


@pytest.mark.parametrize(
    ("batch_dim", "shape", "dim"),
    [("auto", (7, 6), 1), (1, (7, 6), 1), ([1], (7, 6), 1), (None, (7, 1, 6), None), (0, (1, 6), 0)],
)
def test_the_recipe_may_say_it(tmp_path: Path, batch_dim: object, shape: tuple[int, ...], dim: int | None) -> None:
    (tmp_path / "net.py").write_text(CODE)
    (found,) = load_model(f"{tmp_path / 'net.py'}:make", batch_dim=batch_dim).spec.inputs
    assert (found.shape, found.batch_dim) == (shape, dim)


@pytest.mark.parametrize(
    ("batch_dim", "code"), [(3, "no-such-batch-dim"), ([0, 0], "batch-dim-count"), ([], "batch-dim-count")]
)
def test_impossible_batch_dimensions_are_refused(tmp_path: Path, batch_dim: object, code: str) -> None:
    (tmp_path / "net.py").write_text(CODE)
    with raises_error(ModelError, f"model-input/{code}"):
        load_model(f"{tmp_path / 'net.py'}:make", batch_dim=batch_dim)


def test_a_dimension_beyond_the_shape_is_refused() -> None:
    assert [like.batch_dim for like in with_batch_dim([ModelInput((4,)), ModelInput((4, 5))], [1, None])] == [1, None]
    with raises_error(ModelError, "model-input/no-such-batch-dim", "2", "(4,)"):
        with_batch_dim([ModelInput((4,))], 2)


@pytest.mark.parametrize(("dim", "free"), [(1, [7, "batch", 6]), (None, [7, 1, 6])])
def test_exported_files_leave_that_dimension_open(tmp_path: Path, dim: int | None, free: list[object]) -> None:
    done = export_onnx(
        TimeFirst().eval(),
        [torch.randn(7, 1, 6)],
        tmp_path / "m.onnx",
        opset=None,
        dynamic_batch=True,
        metadata={},
        batch_dims=(dim,),
    )
    assert done.ok
    session = onnxruntime.InferenceSession(done.path)
    nodes = session.get_inputs()
    assert nodes[0].shape == free
    arrays = make_feed(nodes, 4 if dim else 1, {}, 0, [dim], {})
    assert arrays["input"].shape == (7, 4 if dim else 1, 6)
    assert np.isfinite(session.run(None, arrays)[0]).all()
