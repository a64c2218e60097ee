"""Types of the keys in recipes. They are strict: a number is never read from a word, nor a boolean from a number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AllowInfNan, Field, Strict, StringConstraints
from pydantic_core import PydanticCustomError

Number = Annotated[float, Strict(), AllowInfNan(False)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
OpenFraction = Annotated[Number, Field(gt=0, lt=1)]
FractionBelowOne = Annotated[Number, Field(ge=0, lt=1)]
PositiveFraction = Annotated[Number, Field(gt=0, le=1)]
ClosedFraction = Annotated[Number, Field(ge=0, le=1)]
Count = Annotated[int, Strict(), Field(ge=1)]
NonNegativeCount = Annotated[int, Strict(), Field(ge=0)]
Word = Annotated[str, StringConstraints(min_length=1, strict=True)]


@dataclass(frozen=True)
class FormerKey:
    """Annotation of a setting that had another name in earlier versions. Recipes may still use that name.

    Attributes:
        name: The former name of the key.
        convert: Turns a value that was written under the former name into the value of today.
    """

    name: str
    convert: Callable[[Any], Any] = lambda value: value


def former_words(words: dict[str, str]) -> Callable[[Any], Any]:
    """Return a conversion from the former words of a setting to the words of today; other values are unchanged."""
    return lambda value: words.get(value, value) if isinstance(value, str) else value


def refused(allowed: str, options: Iterable[str] = ()) -> PydanticCustomError:
    """Create the error of a validator.

    Args:
        allowed: What is allowed, in words.
        options: The words that a typing mistake is compared with.

    Returns:
        The error to raise.
    """
    return PydanticCustomError("refused", "{allowed}", {"allowed": allowed, "options": list(options)})
