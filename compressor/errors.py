"""The error tree. Each class knows the exit code of the contract.

CompressorError
  RecipeError           2   usage or recipe invalid; carries every fault at once
  DataError             2   the data named cannot be used
  ModelError            3   model not understood, or nothing in it can be pruned
  UntrustedFile         4   pickle with code; nothing was executed
  TargetNotReached      5   target not reachable, or not reached
  VerificationFailed    6   certificate, parity or non-finite numbers
  AccuracyGateFailed    7
  LatencyGateFailed     8
  MeasurementUnstable   9
  DeviceUnavailable    10
  Temporary            75   lock held, disk full

A message is `<what>: <where>: <found>; <what to do>`, on one line; the command line puts `compress: ` before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: object, options: Iterable[str]) -> str:
    """`did you mean step? `, or nothing where nothing is near: the beginning of a `todo`."""
    near = get_close_matches(str(word), list(options), 1)
    return f"did you mean {near[0]}? " if near else ""


_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")  # PyTorch has no class for the CPU's


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, a GPU's, or that of PyTorch's CPU allocator."""
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in _OUT_OF_MEMORY)


class CompressorError(Exception):
    """Base of everything a user can cause; `exit_code` is what the process ends with."""

    exit_code = 1
    report: object = None  # the result, where there is one all the same

    def __init__(self, what: str, where: str, found: str, todo: str) -> None:
        self.what, self.where, self.found, self.todo = what, where, found, todo
        super().__init__(" ".join(f"{what}: {where}: {found}; {todo}".split()))

    def __reduce__(self) -> tuple[object, ...]:
        """So that it can be sent from the process that raised it."""
        return type(self), (self.what, self.where, self.found, self.todo), vars(self)

    @property
    def lines(self) -> tuple[str, ...]:
        """What to print, one line for each fault."""
        return (str(self),)


class RecipeError(CompressorError):
    """Usage or recipe invalid. `faults` holds further errors when there is more than one."""

    exit_code = 2

    def __init__(self, what: str, where: str, found: str, todo: str, more: tuple[RecipeError, ...] = ()) -> None:
        super().__init__(what, where, found, todo)
        self.more = more

    @property
    def lines(self) -> tuple[str, ...]:
        return (str(self), *(line for fault in self.more for line in fault.lines))


class DataError(CompressorError):
    exit_code = 2


class ModelError(CompressorError):
    exit_code = 3


class UntrustedFile(CompressorError):
    exit_code = 4


class TargetNotReached(CompressorError):
    exit_code = 5


class VerificationFailed(CompressorError):
    exit_code = 6


class AccuracyGateFailed(CompressorError):
    exit_code = 7


class LatencyGateFailed(CompressorError):
    exit_code = 8


class MeasurementUnstable(CompressorError):
    exit_code = 9


class DeviceUnavailable(CompressorError):
    exit_code = 10


class Temporary(CompressorError):
    exit_code = 75
