"""Models of a user's own code whose copies answer otherwise are refused; state and random numbers are noted."""

from __future__ import annotations

from dataclasses import replace

import torch
from failures import raises_error
from torch import Tensor, nn

from compressor.core import LoadedModel, ModelInput, ModelSpec
from compressor.errors import ModelError
from compressor.models.user_modules.faithful import checked_copies


def loaded(module: nn.Module) -> LoadedModel:
    return LoadedModel(module.eval(), ModelSpec("net.py:make", (ModelInput((3, 8, 8)),)), "net.py:make")


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Counts(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x) * self.calls


class Noisy(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.randn(())


class Tied(Plain):
    """Copies share what is not theirs: an object of its own keeps a reference to the first module."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = Reader(self)
        self.layer.register_forward_hook(self.keep)
        self.last: Tensor | None = None

    def keep(self, _: nn.Module, __: object, result: Tensor) -> None:
        self.last = result

    def forward(self, x: Tensor) -> Tensor:
        self.layer(x)
        return self.reader.read()


class Reader:
    def __init__(self, module: Tied) -> None:
        self.module = module

    def read(self) -> Tensor:
        assert self.module.last is not None
        return self.module.last * 1.0

    def __deepcopy__(self, memo: object) -> Reader:
        return Reader(self.module)


def test_plain_models_get_no_notes_and_a_module_of_their_own() -> None:
    model = loaded(Plain())
    checked = checked_copies(model)
    assert checked.notes == ()
    assert checked.module is not model.module
    assert torch.equal(checked.module.layer.weight, model.module.layer.weight)


def test_state_is_as_it_was_and_noted() -> None:
    checked = checked_copies(loaded(Counts()))
    assert float(checked.module.calls) == 0
    assert len(checked.notes) == 1
    assert "calls" in checked.notes[0]


def test_random_numbers_are_noted_and_the_generator_is_left_alone() -> None:
    model, before = loaded(Noisy()), torch.get_rng_state()
    checked = checked_copies(model)
    assert len(checked.notes) == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_copies_that_read_from_the_original_are_refused() -> None:
    with raises_error(ModelError, "model/unfaithful-copy", "layer"):
        checked_copies(loaded(Tied()))


def test_models_that_do_not_run_are_left_to_the_analysis() -> None:
    model = loaded(Plain())
    wrong = replace(model, spec=replace(model.spec, inputs=(ModelInput((5, 8, 8)),)))
    assert checked_copies(wrong) is wrong
