"""When memory runs out, a batch that fits is told."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from failures import raises_error
from torch import Tensor, nn

from compressor.core import ModelInput
from compressor.data.image_data import ImageData
from compressor.data.open_samples import noise_samples
from compressor.data.splits import InMemorySplit
from compressor.errors import Temporary
from compressor.steps.train import Train
from compressor.training.loop import train
from compressor.training.train_settings import OptimizerSettings
from compressor.training.training_memory import forward_and_backward


class Narrow(nn.Module):
    """Has room for so many images."""

    def __init__(self, room: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.room, self.error = room, error
        self.linear = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.room:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.linear(images.flatten(1))


def attempt(module: nn.Module) -> None:
    split = InMemorySplit(
        "toy", torch.zeros(64, 1, 2, 2, dtype=torch.uint8), torch.zeros(64, dtype=torch.int64), [""] * 64
    )
    data = ImageData("toy", 2, (0.5,), (0.25,), split, split)
    step = Train(epochs=1, batch_size=32, optimizer=OptimizerSettings("sgd", lr=0.1), schedule=lambda done: 1.0)
    train(module, data, step, seed=0, emit=lambda event, fields: None)


@pytest.mark.parametrize(("room", "hint"), [(31, "batch_size to 16"), (9, "batch_size to 8"), (0, "free memory")])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_the_largest_half_of_a_half_that_fits_is_told(room: int, hint: str, error: type[Exception]) -> None:
    with raises_error(Temporary, "out-of-memory/training", "32", hint) as caught:
        attempt(Narrow(room, error))
    assert caught.value.exit_code == 75


def test_other_errors_are_left_alone() -> None:
    class Wrong(RuntimeError):
        def __init__(self, message: str) -> None:
            super().__init__("shapes do not match")

    with pytest.raises(Wrong):
        attempt(Narrow(9, Wrong))


@pytest.mark.skipif(sys.platform != "linux", reason="needs the limit on address space of Linux")
def test_what_an_allocator_really_says_is_understood() -> None:
    code = (
        "import torch, resource\n"
        "from compressor.errors import is_out_of_memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))\n"
        "try: torch.empty(1 << 40)\n"
        "except RuntimeError as error: print(is_out_of_memory(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


def test_memory_is_tried_with_so_many_samples_wherever_they_are() -> None:
    inputs = ModelInput((7, 3), batch_dim=1, name="x"), ModelInput((), batch_dim=None, name="gain")
    taken: list[tuple[int, ...]] = []

    def answer(inputs: tuple[Tensor, ...]) -> Tensor:
        taken.extend(tuple(tensor.shape) for tensor in inputs)
        return inputs[0].requires_grad_()

    forward_and_backward(answer, noise_samples(inputs, 0, 10), torch.device("cpu"), 5)
    assert taken == [(7, 5, 3), ()]
