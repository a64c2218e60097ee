"""The scalar types of a recipe: shares, percentage points, `auto`, and numbers that are never guessed from words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import (
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    Strict,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+) ?%")


class RecipeBlock(BaseModel):
    """One mapping of a recipe: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def refused(allowed: str, options: Iterable[str] = ()) -> PydanticCustomError:
    """An error that says what is allowed; `options` are the words a typing mistake is compared with."""
    return PydanticCustomError("refused", "{allowed}", {"allowed": allowed, "options": list(options)})


def refused_keys(block: str, faults: Iterable[tuple[str, str | None]]) -> ValidationError:
    """Several faults of one block at once, each a key of it (`a.b` of one in it, "" for itself) and what is allowed.

    None instead of what is allowed: the key is missing.
    """
    lines = [
        InitErrorDetails(
            type="missing" if allowed is None else refused(allowed), loc=tuple(filter(None, key.split("."))), input=None
        )
        for key, allowed in faults
    ]
    return ValidationError.from_exception_data(block, lines)


def checked_beside(
    data: object, handler: ValidatorFunctionWrapHandler, block: str, faults: Iterable[tuple[str, str | None]]
) -> Any:
    """Validate the fields of `data`, reporting `faults` between its keys together with theirs.

    An after-validator would stay silent until every single field is right, and the user would run twice.
    """
    found = list(faults)
    try:
        value = handler(data)
    except ValidationError as error:
        lines = [
            InitErrorDetails(
                type=PydanticCustomError(each["type"], each["msg"], each.get("ctx")), loc=each["loc"], input=None
            )
            for each in (*error.errors(), *(refused_keys(block, found).errors() if found else ()))
        ]
        raise ValidationError.from_exception_data(block, lines) from None
    if found:
        raise refused_keys(block, found)
    return value


def given(data: object) -> Mapping[str, object]:
    """The keys of a block that say something; none where it is no mapping."""
    return {key: value for key, value in data.items() if value is not None} if isinstance(data, Mapping) else {}


# ---------------------------------------------------------------- shares and points


def parse_share(value: object) -> float:
    """`'50%'` or 0.5 -> 0.5, strictly between 0 and 1."""
    if isinstance(value, str) and (percent := PERCENT.fullmatch(value)):
        value = float(percent[1]) / 100
    if isinstance(value, float) and 0 < value < 1:
        return value
    raise refused("a share, above 0% and below 100%, written as 50% or 0.5")


def parse_points(value: object) -> float:
    """`'1.5%'` or 1.5 -> 1.5 percentage points, 0 to 100."""
    if isinstance(value, str) and (percent := PERCENT.fullmatch(value)):
        value = float(percent[1])
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100:
        return float(value)
    raise refused("percentage points, 0 to 100, written as 1.0% or 1.0")


def write_share(share: float) -> str | float:
    """As a percentage where that reads back to the very same number."""
    percent = f"{share * 100:.10g}%"
    return percent if PERCENT.fullmatch(percent) and float(percent[:-1]) / 100 == share else share


def write_points(points: float) -> str | float:
    percent = f"{points}%"
    return percent if PERCENT.fullmatch(percent) else points


_PERCENT_SCHEMA = {"type": "string", "pattern": f"^({PERCENT.pattern})$", "examples": ["50%"]}

Share = Annotated[
    float,
    PlainValidator(parse_share),
    PlainSerializer(write_share),
    WithJsonSchema({"anyOf": [_PERCENT_SCHEMA, {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}]}),
]
Points = Annotated[
    float,
    PlainValidator(parse_points),
    PlainSerializer(write_points),
    WithJsonSchema({"anyOf": [_PERCENT_SCHEMA, {"type": "number", "minimum": 0, "maximum": 100}]}),
]


# ---------------------------------------------------------------- numbers, words, auto


def _no_truth(value: object) -> object:
    """`true` equals 1 in Python; in a recipe it is no number."""
    if isinstance(value, bool):
        raise refused("a number or a word, not true or false")
    return value


Whole = Annotated[int, Strict()]
Count = Annotated[int, Strict(), Field(ge=1)]
Number = Annotated[float, Strict(), AllowInfNan(False)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Factor = Annotated[Number, Field(gt=0, le=1)]
Truth = Annotated[bool, Strict()]
Word = Annotated[str, StringConstraints(min_length=1, strict=True)]
Version = Annotated[Literal[1], BeforeValidator(_no_truth)]
RoundTo = Annotated[Literal["auto", 1, 4, 8, 16, 32], BeforeValidator(_no_truth)]


def auto_or_whole(low: int, high: int | None, meaning: str) -> tuple[PlainValidator, WithJsonSchema]:
    """Validator and schema of `auto` or a whole number of [low, high]."""

    def parse(value: object) -> object:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= (high or value)
        if value == "auto" or fits:
            return value
        raise refused(f"auto or {meaning}", ["auto"])

    bounds = {"minimum": low} | ({} if high is None else {"maximum": high})
    return PlainValidator(parse), WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", **bounds}]})


_SHAPE: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1}


def _parse_input(value: object) -> object:
    if value == "auto":
        return value
    if _is_shape(value):
        return tuple(value)
    if isinstance(value, list | tuple) and value and all(map(_is_shape, value)):
        return tuple(tuple(each) for each in value)
    raise refused("auto, a shape without the batch such as [3, 32, 32], or a list of shapes", ["auto"])


def _is_shape(value: object) -> TypeGuard[Sequence[int]]:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in value)
    )


InputSizes = Annotated[
    tuple[int, ...] | tuple[tuple[int, ...], ...] | Literal["auto"],
    PlainValidator(_parse_input),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "auto"},
                _SHAPE,
                {"type": "array", "items": _SHAPE, "minItems": 1},
            ]
        }
    ),
]
