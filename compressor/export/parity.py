"""Does an ONNX file answer as the PyTorch module does?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from compressor.core import ParityScope
from compressor.execution.autocast import without_autocast
from compressor.execution.central_draws import CentralDraws, UnknownDraw
from compressor.execution.copies import copy_module
from compressor.execution.float64 import in_float64, widen
from compressor.execution.randomness import equal_randomness
from compressor.export.discrete_ops import layer_outputs_before_discrete_ops
from compressor.export.random_nodes import CannotCompare, with_central_draws
from compressor.export.tolerance import RELATIVE_AT_MOST, Array, max_abs, within_tolerance
from compressor.tensors import tree_leaves

NUDGE, NUDGES = 1e-6, 4  # of a layer's largest value, about what rounding does; how often that is tried


AT_CENTRE: ParityScope = "answers with random numbers at their centres"


class CannotRun(Exception):
    """ONNX Runtime refuses the file, at some batch size or at all."""


@dataclass(frozen=True, slots=True)
class Parity:
    max_abs_error: float
    ok: bool
    compared: ParityScope = "answers"


Inputs = Sequence[Tensor]
"""One batch, for each input of the module."""

Answer = Callable[[nn.Module, Inputs], list[Array]]


def answers(module: nn.Module, inputs: Inputs) -> list[Array]:
    """Run a fresh copy from equal random numbers: what a module was asked before must not matter."""
    with torch.no_grad(), equal_randomness(), without_autocast():
        return [tensor.detach().cpu().numpy() for tensor in tree_leaves(copy_module(module)(*inputs))]


def central_answers(module: nn.Module, inputs: Inputs) -> list[Array]:
    """The same with every random draw at its centre. Raises CannotRun for draws that have none."""
    try:
        with torch.inference_mode(), CentralDraws(), without_autocast():  # type: ignore[no-untyped-call]
            return [tensor.detach().cpu().numpy() for tensor in tree_leaves(copy_module(module)(*inputs))]
    except UnknownDraw as error:
        raise CannotRun(f"{error}, which cannot be compared") from error


def check_parity(path: Path, module: nn.Module, batches: Sequence[Inputs]) -> Parity:
    """Compare ONNX Runtime (CPU, default options) with the module in float32 on every batch and every output (see
    agreement.py).

    Where they disagree and the module's own answers hang on rounding, as a detector's do that keeps the best of many
    boxes with equal scores, there is nothing to compare them with. Then `compared` is another: what the layers write
    before the first choice by value.
    Where the file draws random numbers, a copy of it is compared in which they are at their centres, as they then are
    in the module.
    Raises CannotRun when ONNX Runtime refuses or answers in other shapes, VerificationFailed for NaN or infinity.
    """
    try:
        with with_central_draws(path) as central:
            if central is None:
                return _check(path, module, batches, answers)
            _open(path)
            return replace(_check(central, module, batches, central_answers), compared=AT_CENTRE)
    except CannotCompare as reason:
        raise CannotRun(str(reason)) from reason


def _check(path: Path, module: nn.Module, batches: Sequence[Inputs], answer: Answer) -> Parity:
    session = _open(path)
    names = [f"{path.name}, output {node.name}" for node in session.get_outputs()]
    largest, ok = 0.0, True
    for batch in batches:
        reference, found = answer(module, batch), _run(session, batch)
        shapes = [array.shape for array in reference]
        if [array.shape for array in found] != shapes:
            if not is_rounding_sensitive(module, batch, answer):
                others = [array.shape for array in found]
                raise CannotRun(f"batch {len(batch[0])}: shapes {others} instead of {shapes}")
            ok = False
            continue
        difference, same = within_tolerance(found, reference, _exact(module, batch, answer), names)
        largest, ok = max(largest, difference), ok and same
    if not ok and any(is_rounding_sensitive(module, batch, answer) for batch in batches):
        return _before_choices(path, module, batches) or Parity(largest, ok)
    return Parity(largest, ok)


def is_rounding_sensitive(module: nn.Module, batch: Inputs, answer: Answer = answers) -> bool:
    """Whether other rounding, of 1e-6 of the largest value each layer writes, or that of float64, which orders what is
    equal in float32, changes the number of answers, or an answer by more than 1 % of the largest."""
    reference = answer(module, batch)

    def others() -> Iterator[list[Array]]:
        yield _exact(module, batch, answer)() or reference
        with _rounding_otherwise(module):
            for _ in range(NUDGES):
                yield answer(module, batch)

    return any(
        ours.shape != theirs.shape or max_abs(ours - theirs) > RELATIVE_AT_MOST * max_abs(theirs)
        for other in others()
        for ours, theirs in zip(other, reference, strict=True)
    )


@contextmanager
def _rounding_otherwise(module: nn.Module) -> Iterator[None]:
    random = torch.Generator().manual_seed(0)

    def nudged(_: nn.Module, __: object, result: object) -> object:
        if isinstance(result, Tensor) and result.is_floating_point() and result.numel():
            return result + NUDGE * result.abs().max() * torch.randn(result.shape, generator=random)
        return result

    handles = [each.register_forward_hook(nudged) for each in module.modules() if next(each.children(), None) is None]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before_choices(path: Path, module: nn.Module, batches: Sequence[Inputs]) -> Parity | None:
    """What layers write before the first choice, in the file and in the module; None where that can't be told."""
    with layer_outputs_before_discrete_ops(path, module) as layers:
        if layers is None:
            return None
        session = _open(layers.path)
        largest, ok = 0.0, True
        for batch in batches:
            reference, found = layers.of(module, batch), _run(session, batch, layers.outputs)
            if [array.shape for array in found] != [array.shape for array in reference]:
                return None
            names = [f"{path.name}, before a choice"] * len(found)
            difference, same = within_tolerance(found, reference, _exact(module, batch, layers.of), names)
            largest, ok = max(largest, difference), ok and same
    return Parity(largest, ok, "layers before a choice by value")


def _exact(module: nn.Module, batch: Inputs, answer: Answer) -> Callable[[], list[Array]]:
    """The same in float64, computed when first asked for; empty where the module can't run in float64."""

    @functools.cache
    def exact() -> list[Array]:
        try:
            with in_float64():
                return answer(copy_module(module).double(), widen(batch))
        except Exception:  # what a user's forward raises when it finds other types than it expects
            return []

    return exact


def _open(path: Path) -> onnxruntime.InferenceSession:
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors come as exceptions; the library would print them as well
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CannotRun(str(error)) from error


def _run(session: onnxruntime.InferenceSession, batch: Inputs, outputs: Sequence[str] | None = None) -> list[Array]:
    try:
        taken = [node.name for node in session.get_inputs()]
        found: list[Array] = session.run(outputs, {name: each.numpy() for name, each in zip(taken, batch, strict=True)})
    except Exception as error:
        raise CannotRun(f"batch {len(batch[0])}: {error}") from error
    return found
