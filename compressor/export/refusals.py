"""Why an exporter refuses a model: in one line, with the place in the model's code."""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
from torch import fx

from compressor.execution.traceback_frames import traceback_frames

REPORT_HINT = "report this with the model's name"
_VALUE_HINT = "replace the branch by torch.where, or return the tensors that it reads"
_COMPLEX_HINT = "compute with real and imaginary parts, or return what is computed before"

_LIBRARIES = tuple(f"{folder}{os.sep}" for folder in (torch.__path__[0], Path(__file__).parent.parent))
_STANDARD = sysconfig.get_paths()["stdlib"]
_SOURCE = re.compile(r'File "([^"]+)", line (\d+)')
_OPERATOR = re.compile(r"op='([\w.]+)'")


class ExportRefused(Exception):
    """An exporter cannot convert the model; the message is its reason, in one line."""

    def __init__(self, reason: str, hint: str = REPORT_HINT) -> None:
        super().__init__(reason)
        self.hint = hint


def refusal(error: BaseException) -> ExportRefused:
    """Say what an exporter raised in words of the model, where the reason is known, and where in its code.

    Args:
        error: What the exporter raised.

    Returns:
        The refusal.
    """
    cause, hint = root_cause(error), REPORT_HINT
    reason = first_line(cause)
    if type(cause).__name__ == "GuardOnDataDependentSymNode":
        reason, hint = "the code branches on the value of a tensor, which an ONNX graph cannot do", _VALUE_HINT
    elif "complex" in reason and (operator := _OPERATOR.search(reason)):
        reason, hint = f"{operator[1]} of complex numbers has no ONNX form", _COMPLEX_HINT
    place = next(_places(cause), None)
    return ExportRefused(f"{place}: {reason}" if place else reason, hint)


def root_cause(error: BaseException) -> BaseException:
    """The first exception in a chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def first_line(error: BaseException) -> str:
    """The first line of a message that is not blank, or the type of the exception."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def _places(error: BaseException) -> Iterator[str]:
    """file:line of the model's code in a traceback, innermost first."""
    for frame, number in traceback_frames(error):
        for file, line in ((frame.f_code.co_filename, number), *reversed(_sources(frame))):
            is_standard = file.startswith(_STANDARD) and "site-packages" not in file
            if not is_standard and not file.startswith(_LIBRARIES):
                yield f"{Path(file).name}:{line}"


def _sources(frame: FrameType) -> list[tuple[str, int]]:
    """The code that an operator comes from, where the frame converts one."""
    node = frame.f_locals.get("node")
    trace = node.meta.get("stack_trace") if isinstance(node, fx.Node) else None
    return [(file, int(line)) for file, line in _SOURCE.findall(trace or "")]
