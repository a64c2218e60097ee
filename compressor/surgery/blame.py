"""Which source lines may hold a fixed size, where a forward pass fails after a trial removal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType
from typing import Protocol

import torch

from compressor.graph.tracked import SIZE_INTERPRETATIONS, SizeInterpretation


class _RunsPlaces(Protocol):
    """A module whose forward runs places in turn, such as the nodes of an ONNX file."""

    def places_before(self, place: str) -> Iterator[set[str]]: ...
    def places_alike(self, places: set[str]) -> set[str]: ...


def blame(
    failure: Exception,
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
        lines: The lines that call operators with sizes.
        called: The lines that call any operator.
        interpretations: How lines are interpreted so far.
        first_other_shape: Finds the first line whose result has another shape.

    Returns:
        The lines to interpret more strictly; empty = the cause cannot be located.
    """
    sized = {line for line in lines if interpretations.get(line) not in SIZE_INTERPRETATIONS[3:]}
    called = {line for line in called if interpretations.get(line) != SIZE_INTERPRETATIONS[-1]}
    if failed := _failed_place(failure):
        module, place = failed
        nearby = list(module.places_before(place))
        for candidates in (sized, called):
            if nearest := next((places & candidates for places in nearby if places & candidates), None):
                return module.places_alike(nearest) & candidates
    if (first := first_other_shape()) in sized:
        return {first}
    for code, line in _frames(failure):
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
    for code, _ in _frames(failure):
        if near := {line for line in _lines_of(code) & called if interpretations.get(line) != SIZE_INTERPRETATIONS[-1]}:
            return near
    return set()


def location_of(failure: Exception) -> str:
    """The place that failed, or file:line of the innermost frame outside PyTorch and this room."""
    if failed := _failed_place(failure):
        return failed[1]
    inside = (torch.__path__[0], str(Path(__file__).parent))
    places = [
        f"{code.co_filename}:{line}" for code, line in _frames(failure) if not code.co_filename.startswith(inside)
    ]
    return places[0] if places else "the call of the model itself"


def _failed_place(failure: Exception) -> tuple[_RunsPlaces, str] | None:
    """The module that runs places in turn, and the place that it failed at."""
    step = failure.__traceback__
    while step is not None:
        module, call = (step.tb_frame.f_locals.get(name) for name in ("self", "step"))
        if module is not None and call is not None and hasattr(module, "places_before") and hasattr(call, "place"):
            return module, call.place
        step = step.tb_next
    return None


def _lines_of(code: CodeType) -> set[str]:
    return {f"{code.co_filename}:{number}" for *_, number in code.co_lines()}


def _frames(failure: Exception) -> Iterator[tuple[CodeType, int]]:
    """(code, line) of the traceback, innermost first."""
    frames = []
    step = failure.__traceback__
    while step is not None:
        frames.append((step.tb_frame.f_code, step.tb_lineno))
        step = step.tb_next
    yield from reversed(frames)
