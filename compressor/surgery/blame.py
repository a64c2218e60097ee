"""Which source lines may hold a fixed size, where a forward pass fails after a trial removal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType
from typing import Any, Protocol

import torch
from torch import nn

from compressor.execution.traceback_frames import traceback_frames
from compressor.graph.tracked import SizeInterpretation
from compressor.layers import failed_place

_RUNNERS = tuple(Path(__file__).parents[1] / room for room in ("execution", "graph", "surgery"))  # they run models


class _RunsPlaces(Protocol):
    """A module whose forward runs places in turn, such as the nodes of an ONNX file."""

    def places_before(self, place: str) -> Iterator[set[str]]: ...
    def places_alike(self, places: set[str]) -> set[str]: ...


def blame(
    failure: Exception,
    module: nn.Module,
    lines: set[str],
    called: set[str],
    interpretations: Mapping[str, SizeInterpretation],
    first_other_shape: Callable[[], str | None],
) -> set[str]:
    """Choose the source lines that may hold fixed sizes.

    Where modules stand for places, such as nodes of an ONNX file, it is the nearest place before the failing one, and
    the same place of repeated blocks, which would fail one after the other. Else it is the first line whose result has
    another shape than the removal leaves, else the failing line if it is one of `lines`. Else these are the lines of
    its function, else all lines of that function that are `called`, else those of its callers. Lines that cannot be
    interpreted more strictly are left out.

    Args:
        failure: What the forward pass raised.
        module: The module that ran.
        lines: The lines that call operators with sizes.
        called: The lines that call any operator.
        interpretations: How lines are interpreted so far.
        first_other_shape: Finds the first line whose result has another shape.

    Returns:
        The lines to interpret more strictly; empty = the cause cannot be located.
    """
    sized = lines - lines_read_as(SizeInterpretation.FREEZE_SIZED_OPS, interpretations)
    called = called - lines_read_as(SizeInterpretation.FREEZE_ALL, interpretations)
    if (place := failed_place(failure)) is not None:
        runner = _runner_of_places(module)
        nearby = list(runner.places_before(place))
        for candidates in (sized, called):
            if nearest := next((places & candidates for places in nearby if places & candidates), None):
                return runner.places_alike(nearest) & candidates
    if (first := first_other_shape()) in sized:
        return {first}
    for frame, line in traceback_frames(failure):
        code = frame.f_code
        if f"{code.co_filename}:{line}" in sized:
            return {f"{code.co_filename}:{line}"}
        own = _lines_of(code)
        if own & lines and (own & sized or own & called):
            return own & sized or own & called
    return sized


def called_near(failure: Exception, called: set[str], interpretations: Mapping[str, SizeInterpretation]) -> set[str]:
    """Find the lines that call operators in the innermost function around a check, and can be read more strictly.

    Args:
        failure: What the check raised.
        called: The lines that call any operator.
        interpretations: How lines are interpreted so far.

    Returns:
        The lines; empty = every function around the check is frozen already.
    """
    readable = called - lines_read_as(SizeInterpretation.FREEZE_ALL, interpretations)
    for frame, _ in traceback_frames(failure):
        if near := _lines_of(frame.f_code) & readable:
            return near
    return set()


def lines_read_as(least: SizeInterpretation, interpretations: Mapping[str, SizeInterpretation]) -> set[str]:
    """Find the lines that are interpreted in one way, or more strictly.

    Args:
        least: The way.
        interpretations: How lines are interpreted so far.

    Returns:
        The lines.
    """
    return {line for line, interpretation in interpretations.items() if interpretation >= least}


def location_of(failure: Exception) -> str:
    """The place that failed, or file:line of the innermost frame outside PyTorch and the packages that run models."""
    if (place := failed_place(failure)) is not None:
        return place
    inside = (Path(torch.__path__[0]), *_RUNNERS)
    for frame, line in traceback_frames(failure):
        if not any(Path(frame.f_code.co_filename).is_relative_to(folder) for folder in inside):
            return f"{frame.f_code.co_filename}:{line}"
    return "the call of the model itself"


def _lines_of(code: CodeType) -> set[str]:
    return {f"{code.co_filename}:{number}" for *_, number in code.co_lines()}


def _runner_of_places(module: nn.Module) -> _RunsPlaces:
    """The outermost module that runs places."""
    runner: Any = next(part for part in module.modules() if hasattr(part, "places_before"))
    return runner  # type: ignore[no-any-return]
