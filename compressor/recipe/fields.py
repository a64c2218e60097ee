"""Types of single keys: shares, percentage points, `auto`, and shapes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import BeforeValidator, PlainSerializer, PlainValidator, WithJsonSchema

from compressor.field_types import refused

_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+) ?%")

# ---------------------------------------------------------------- shares and points


def parse_share(value: object) -> float:
    """Parse a share strictly between 0 and 1: `'50%'` or 0.5 is 0.5."""
    if isinstance(value, str) and (percent := _PERCENT.fullmatch(value)):
        value = float(percent[1]) / 100
    if isinstance(value, float) and 0 < value < 1:
        return value
    raise refused("a share, above 0% and below 100%, written as 50% or 0.5")


def parse_points(value: object) -> float:
    """Parse a percentage from 0 to 100: `'1.5%'` or 1.5 is 1.5."""
    if isinstance(value, str) and (percent := _PERCENT.fullmatch(value)):
        value = float(percent[1])
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100:
        return float(value)
    raise refused("a percentage, 0 to 100, written as 1.0% or 1.0")


def parse_agreement(value: object) -> float:
    """Parse a percentage as `parse_points` does; 0.98 without the sign could be a share, as in targets."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1:
        raise refused(f"{100 * value:g}% or {value:g}%, written with the sign: {value:g} alone could be either")
    return parse_points(value)


def write_share(share: float) -> str | float:
    """Write a share as a percentage if that reads back to the very same number."""
    percent = f"{share * 100:.10g}%"
    return percent if _PERCENT.fullmatch(percent) and float(percent[:-1]) / 100 == share else share


def write_points(points: float) -> str:
    """Write percentage points with a %."""
    return f"{Decimal(repr(points)):f}%"


_PERCENT_SCHEMA = {"type": "string", "pattern": f"^({_PERCENT.pattern})$", "examples": ["50%"]}

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
Agreement = Annotated[
    float,
    PlainValidator(parse_agreement),
    PlainSerializer(write_points),
    WithJsonSchema(
        {"anyOf": [_PERCENT_SCHEMA, {"const": 0}, {"type": "number", "exclusiveMinimum": 1, "maximum": 100}]}
    ),
]


# ---------------------------------------------------------------- choices of numbers, auto


def _refuse_booleans(value: object) -> object:
    """`true` equals 1 in Python; in a recipe it is not a number."""
    if isinstance(value, bool):
        raise refused("a number or a word, not true or false")
    return value


Version = Annotated[Literal[1], BeforeValidator(_refuse_booleans)]
RoundTo = Annotated[Literal["auto", 1, 4, 8, 16, 32], BeforeValidator(_refuse_booleans)]


def auto_or_integer(low: int, high: int | None, meaning: str) -> tuple[PlainValidator, WithJsonSchema]:
    """Create the annotations of a key that is `auto` or an integer.

    Args:
        low: The smallest integer.
        high: The largest integer; None if there is no limit.
        meaning: The allowed integers in words.

    Returns:
        The validator and the JSON Schema.
    """

    def parse(value: object) -> object:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= (high or value)
        if value == "auto" or fits:
            return value
        raise refused(f"auto or {meaning}", ["auto"])

    bounds = {"minimum": low} | ({} if high is None else {"maximum": high})
    return PlainValidator(parse), WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", **bounds}]})


# ---------------------------------------------------------------- shapes


def _parse_input(value: object) -> object:
    if value == "auto":
        return value
    if _is_shape(value):
        return tuple(value)
    if isinstance(value, list | tuple) and value and all(map(_is_shape, value)):
        return tuple(tuple(shape) for shape in value)
    raise refused("auto, a shape without the batch such as [3, 32, 32], or a list of shapes", ["auto"])


def _is_shape(value: object) -> TypeGuard[Sequence[int]]:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in value)
    )


_SHAPE: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1}
_SHAPES = {"type": "array", "items": _SHAPE, "minItems": 1}

InputSizes = Annotated[
    tuple[int, ...] | tuple[tuple[int, ...], ...] | Literal["auto"],
    PlainValidator(_parse_input),
    WithJsonSchema({"anyOf": [{"const": "auto"}, _SHAPE, _SHAPES]}),
]


def _parse_outputs(value: object) -> object:
    if value == "auto" or (isinstance(value, list | tuple) and value and all(map(_is_output, value))):
        return value if isinstance(value, str) else tuple(value)
    raise refused("auto, or a list of outputs by index or name, such as [0] or [logits]", ["auto"])


def _is_output(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


_OUTPUT: dict[str, Any] = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}

OutputSelection = Annotated[
    tuple[int | str, ...] | Literal["auto"],
    PlainValidator(_parse_outputs),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "array", "items": _OUTPUT, "minItems": 1}]}),
]


def _parse_batch_dim(value: object) -> object:
    if value == "auto" or _is_dimension(value):
        return value
    if isinstance(value, list | tuple) and value and all(map(_is_dimension, value)):
        return tuple(value)
    raise refused("auto, a dimension counted from 0, null for none, or a list of dimensions", ["auto"])


def _is_dimension(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


_DIMENSION: dict[str, Any] = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]}

InputBatchDims = Annotated[
    Literal["auto"] | int | tuple[int | None, ...] | None,
    PlainValidator(_parse_batch_dim),
    WithJsonSchema(
        {"anyOf": [{"const": "auto"}, *_DIMENSION["anyOf"], {"type": "array", "items": _DIMENSION, "minItems": 1}]}
    ),
]
