"""A model of a user's own code is checked before it is worked on: copies of it must answer as it does.

Pruning, training and export all work on copies. A copy that answers otherwise would be proven, trained and exported in
the model's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from compressor.core import LoadedModel
from compressor.errors import ModelError
from compressor.execution.copies import copy_module
from compressor.execution.randomness import equal_randomness
from compressor.models.example_inputs import example_inputs
from compressor.tensors import tree_leaves

RELATIVE = 1e-5  # of the largest answer: the same operators on the same numbers


def checked_copies(loaded: LoadedModel) -> LoadedModel:
    """The model with a fresh copy of its module, once a copy has been seen to answer as the module does.

    The notes say whether forward draws random numbers, and which buffers it changes.

    Raises:
        ModelError: The module cannot be copied, or a copy answers otherwise.
    """
    module = loaded.module
    fresh = copy_module(module)
    copied = copy_module(fresh)
    x, y = (example_inputs(loaded, seed=seed) for seed in (1, 2))
    try:
        expected = _answer(module, y)
        _answer(module, x)  # what a stale copy would see
    except Exception:  # it does not run on such inputs, which is said where it is analysed
        return loaded
    try:
        answers = _answer(copied, y)
    except Exception as error:  # whatever a copy that is torn from its original raises
        raise _unfaithful(loaded, f"a copy of it does not run ({type(error).__name__}: {error})") from error
    if not _same(answers, expected):
        raise _unfaithful(loaded, "a copy of it answers otherwise")
    notes = [*_notes_on_state(fresh, copied), *_notes_on_randomness(copy_module(fresh), y, expected)]
    return replace(loaded, module=fresh, notes=(*loaded.notes, *notes))


def _answer(module: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad(), equal_randomness():
        return [leaf.detach().clone() for leaf in tree_leaves(module(*inputs))]


def _same(answers: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    if [leaf.shape for leaf in answers] != [leaf.shape for leaf in expected]:
        return False
    return all(
        torch.allclose(one, other, rtol=0.0, atol=RELATIVE * float(other.abs().nan_to_num().max()), equal_nan=True)
        if other.is_floating_point() and other.numel()
        else torch.equal(one, other)
        for one, other in zip(answers, expected, strict=True)
    )


def _unfaithful(loaded: LoadedModel, problem: str) -> ModelError:
    """Names the parts that carry hooks, or a forward of their own, for these are what ties a module to its original."""
    tied = [
        name or "the model itself"
        for name, part in loaded.module.named_modules()
        if part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)
    ]
    parts = f"; hooks or replaced methods are on {', '.join(tied[:3])}" if tied else ""
    return ModelError(
        "model/unfaithful-copy", loaded.name, f"{problem}{parts}", "keep what forward uses inside the module that runs"
    )


def _notes_on_state(before: nn.Module, after: nn.Module) -> list[str]:
    own = dict(after.named_buffers())
    changed = [name for name, buffer in before.named_buffers() if not _same([own[name]], [buffer])]
    if not changed:
        return []
    return [
        f"forward changes {', '.join(changed[:3])} in eval mode, so that its answer depends on earlier inputs: every "
        "comparison starts from the values that were loaded, and the ONNX files hold these"
    ]


def _notes_on_randomness(module: nn.Module, inputs: Sequence[Tensor], expected: Sequence[Tensor]) -> list[str]:
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(12345)
        again = [leaf.detach() for leaf in tree_leaves(module(*inputs))]
    if _same(again, expected):
        return []
    return ["forward draws random numbers: what is compared draws the same ones on both sides"]
