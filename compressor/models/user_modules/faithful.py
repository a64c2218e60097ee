"""Checks that copies of a user's own model compute the same outputs as the model.

Pruning, training and export all use copies. A copy with other outputs would be proven, trained and exported in place
of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from compressor.core import LoadedModel
from compressor.errors import ModelError
from compressor.execution.copies import copy_module
from compressor.execution.differences import is_close
from compressor.execution.randomness import SEED
from compressor.execution.run_copy import run_seeded
from compressor.listed import listed
from compressor.models.inputs.example_inputs import example_inputs
from compressor.tensors import tree_leaves

RELATIVE_TOLERANCE = 1e-5  # of the largest output: the operators and the numbers are the same


def checked_copies(loaded: LoadedModel) -> LoadedModel:
    """Return the model with a fresh copy of its module, after comparing the outputs of a copy and of the module.

    The notes say whether forward draws random numbers, and which buffers it changes.

    Raises:
        ModelError: The module cannot be copied, or a copy computes other outputs.
    """
    module = loaded.module
    fresh = copy_module(module)
    copied = copy_module(fresh)
    x, y = (example_inputs(loaded, seed=seed) for seed in (1, 2))
    try:
        expected = _answer(module, y)
        _answer(module, x)  # what a stale copy would see
    except Exception:  # it does not run on such inputs; the analysis reports it
        return loaded
    try:
        answers = _answer(copied, y)
    except Exception as error:  # a copy that still refers to its original may raise anything
        raise _unfaithful(loaded, f"a copy of it does not run ({type(error).__name__}: {error})") from error
    if not _same(answers, expected):
        raise _unfaithful(loaded, "a copy of it computes other outputs")
    notes = [*_notes_on_state(fresh, copied), *_notes_on_randomness(copy_module(fresh), y, expected)]
    return replace(loaded, module=fresh, notes=(*loaded.notes, *notes))


def _answer(module: nn.Module, inputs: Sequence[Tensor], seed: int = SEED) -> list[Tensor]:
    return [leaf.detach().clone() for leaf in tree_leaves(run_seeded(module, *inputs, seed=seed))]


def _same(answers: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    if len(answers) != len(expected):
        return False
    return all(is_close(one, other, RELATIVE_TOLERANCE) for one, other in zip(answers, expected, strict=True))


def _unfaithful(loaded: LoadedModel, problem: str) -> ModelError:
    """Name the parts that have hooks or their own forward, because these may still refer to the original module."""
    tied = [
        name or "the model itself"
        for name, part in loaded.module.named_modules()
        if part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)
    ]
    parts = f"; hooks or replaced methods are on {listed(tied, 3)}" if tied else ""
    return ModelError(
        "model/unfaithful-copy", loaded.name, f"{problem}{parts}", "keep what forward uses inside the module that runs"
    )


def _notes_on_state(before: nn.Module, after: nn.Module) -> list[str]:
    own = dict(after.named_buffers())
    changed = [name for name, buffer in before.named_buffers() if not _same([own[name]], [buffer])]
    if not changed:
        return []
    return [
        f"forward changes {listed(changed, 3)} in eval mode, so that its output depends on earlier inputs: every "
        "comparison starts from the loaded values, and the ONNX files hold these"
    ]


def _notes_on_randomness(module: nn.Module, inputs: Sequence[Tensor], expected: Sequence[Tensor]) -> list[str]:
    if _same(_answer(module, inputs, seed=12345), expected):
        return []
    return ["forward draws random numbers: proofs draw the same ones on both sides, for the channels that stay"]
