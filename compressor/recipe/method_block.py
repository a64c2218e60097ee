"""The settings of a method as a recipe has them: one flat block under the method's name.

In the code, settings that several methods share are one value (`training: EarlyTraining`). In a recipe, their keys are
beside the method's own keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from compressor.field_types import FormerKey
from compressor.methods import Method, SettingsGroup
from compressor.recipe.block import RecipeBlock


@cache
def method_block(method: type[Method]) -> type[RecipeBlock]:
    """Create the model of a method's block. The defaults of a group's keys are those of the method's own value."""
    fields: dict[str, Any] = {}
    for name, field in method.model_fields.items():
        if isinstance(field.default, SettingsGroup):
            for key, inner in type(field.default).model_fields.items():
                fields[key] = (_annotation(inner), getattr(field.default, key))
        else:
            fields[name] = (_annotation(field), field.default)
    return create_model(method.__name__, __base__=RecipeBlock, __doc__=method.__doc__, **fields)


def method_from_block(method: type[Method], block: RecipeBlock) -> Method:
    """Create a method from its block.

    Args:
        method: The class of the method.
        block: Its settings, an instance of `method_block(method)`.

    Returns:
        The method.
    """
    keys = dict(block)
    for name, field in method.model_fields.items():
        if isinstance(field.default, SettingsGroup):
            group = type(field.default)
            keys[name] = group(**{key: keys.pop(key) for key in group.model_fields})
    return method(**keys)


@cache
def former_keys(method: type[Method]) -> Mapping[str, tuple[str, FormerKey]]:
    """Return the former names of a method's keys, with the name and the conversion of today."""
    return {
        former.name: (key, former)
        for key, field in method_block(method).model_fields.items()
        for former in field.metadata
        if isinstance(former, FormerKey)
    }


def _annotation(field: FieldInfo) -> Any:
    return Annotated[field.annotation, *field.metadata, Field(description=field.description)]
