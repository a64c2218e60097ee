"""The errors that a user can cause. Each class has one exit code, each kind of message one stable code.

CompressorError
  RecipeError           2   the usage or the recipe is invalid; carries every fault at once
  DataError             2   the data cannot be used
  ModelError            3   the model is not understood, or nothing in it can be pruned
  UntrustedFile         4   the file is a pickle with code; nothing was executed
  TargetNotReached      5   the target cannot be reached, or was not reached
  VerificationFailed    6   certificate, parity or non-finite numbers
  AccuracyGateFailed    7
  LatencyGateFailed     8
  MeasurementUnstable   9
  DeviceUnavailable    10
  Temporary            75   a lock is held, or a disk or memory is full

A code is `subject/slug`, such as `data/no-images`. The printed line is `<subject>: <place>: <problem>; <hint>`, with
blanks in the subject; the command line puts `compress: ` before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Self


def did_you_mean(word: object, options: Iterable[str]) -> str:
    """Return the beginning of a hint, `did you mean step? `, or nothing if no option is similar.

    Args:
        word: The unknown word.
        options: The words that are allowed.

    Returns:
        A sentence that ends with a blank, or an empty string.
    """
    bare = {option.lstrip("-"): option for option in options}  # dashes make no two options similar
    sought = str(word).lstrip("-")
    near = get_close_matches(sought, bare, 1, cutoff=0.5 if len(sought) == 2 else 0.6)  # of two letters, one may differ
    return f"did you mean {bare[near[0]]}? " if near else ""


_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")  # PyTorch has no class for the CPU's


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: Python's, a GPU's, or that of PyTorch's CPU allocator."""
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in _OUT_OF_MEMORY)


class CompressorError(Exception):
    """Base of everything that a user can cause.

    Attributes:
        code: `subject/slug`, stable across versions.
        place: The file, option or recipe key that is at fault.
        problem: What is wrong there, with the value found.
        hint: What to do next, with the values that are allowed.
        report: The result of the command, if there is one in spite of the error.
    """

    exit_code = 1
    report: object = None

    def __init__(self, code: str, place: str, problem: str, hint: str) -> None:
        self.code, self.place, self.problem, self.hint = code, place, problem, hint
        subject = code.partition("/")[0].replace("-", " ")
        super().__init__(" ".join(f"{subject}: {place}: {problem}; {hint}".split()))

    def __reduce__(self) -> tuple[object, ...]:
        """Support pickling: a worker process sends its error to the process that started it."""
        return type(self), (self.code, self.place, self.problem, self.hint), vars(self)

    @property
    def errors(self) -> tuple[CompressorError, ...]:
        """This error, then those that it carries; each is printed on its own line."""
        return (self,)

    def with_report(self, report: object) -> Self:
        """Attach the result of the command, which is printed all the same."""
        self.report = report
        return self


class RecipeError(CompressorError):
    """The usage or the recipe is invalid. `more` holds the further faults if there are several."""

    exit_code = 2

    def __init__(self, code: str, place: str, problem: str, hint: str, more: tuple[CompressorError, ...] = ()) -> None:
        super().__init__(code, place, problem, hint)
        self.more = more

    @property
    def errors(self) -> tuple[CompressorError, ...]:
        return (self, *(error for fault in self.more for error in fault.errors))


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
