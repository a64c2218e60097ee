"""A block of a recipe: a frozen model that is closed to unknown keys and reports all of its faults at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, ValidatorFunctionWrapHandler, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from compressor.field_types import refused

Conflict = tuple[str, str | None]
"""A key of a block (`a.b` of a block in it, "" for the block itself) and what is allowed; None: the key is missing."""


class RecipeBlock(BaseModel):
    """One mapping of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def conflicts(cls, keys: Mapping[str, object]) -> Iterable[Conflict]:
        """Return the keys that do not fit to the others.

        Args:
            keys: The keys of the block that are not null, as they were written.
        """
        return ()

    @model_validator(mode="wrap")
    @classmethod
    def _report_all_faults(cls, data: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """Report conflicts together with the faults of single keys.

        A validator of mode "after" would not run until every single key is right, and the user would have to run twice.
        """
        conflicts = list(cls.conflicts(written_keys(data))) if isinstance(data, Mapping) else []
        if not conflicts:
            return handler(data)
        details = list(_details(conflicts))
        try:
            handler(data)
        except ValidationError as error:
            details = [*map(_copy, error.errors()), *details]
        raise ValidationError.from_exception_data(cls.__name__, details)


def conflict_error(block: str, conflicts: Iterable[Conflict]) -> ValidationError:
    """Create the error of a block whose keys do not fit to those of another block.

    Args:
        block: The name of the block.
        conflicts: Its keys that are at fault.

    Returns:
        The error to raise.
    """
    return ValidationError.from_exception_data(block, list(_details(conflicts)))


def written_keys(data: object) -> Mapping[str, Any]:
    """Return the keys of a block that are not null; none if it is not a mapping."""
    return {key: value for key, value in data.items() if value is not None} if isinstance(data, Mapping) else {}


def _details(conflicts: Iterable[Conflict]) -> Iterable[InitErrorDetails]:
    for key, allowed in conflicts:
        kind = "missing" if allowed is None else refused(allowed)
        yield InitErrorDetails(type=kind, loc=tuple(filter(None, key.split("."))), input=None)


def _copy(error: Any) -> InitErrorDetails:
    kind = PydanticCustomError(error["type"], error["msg"], error.get("ctx"))
    return InitErrorDetails(type=kind, loc=error["loc"], input=None)
