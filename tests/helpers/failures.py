"""Assert which error is raised by its code and the values that it names, never by its sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from compressor.errors import CompressorError

E = TypeVar("E", bound=CompressorError)


@contextmanager
def raises_error(error_class: type[E], code: str, *values: str | re.Pattern[str]) -> Iterator[pytest.ExceptionInfo[E]]:
    """Expect an error of this class and code that names every one of `values`: a place, a number, an option."""
    with pytest.raises(error_class) as caught:
        yield caught
    assert_error(caught.value, code, *values)


def assert_error(error: CompressorError, code: str, *values: str | re.Pattern[str]) -> None:
    """Check the code of an error, and that its printed line names every one of `values`."""
    assert error.code == code, str(error)
    missing = [value for value in values if not re.search(_pattern(value), str(error))]
    assert not missing, f"{missing} not in: {error}"


def _pattern(value: str | re.Pattern[str]) -> str:
    """A regular expression that finds `value`; a number is not found within a longer one."""
    if isinstance(value, re.Pattern):
        return value.pattern
    before, after = (r"(?<![\d.])" if value[0].isdigit() else ""), (r"(?!\d)" if value[-1].isdigit() else "")
    return f"{before}{re.escape(value)}{after}"
