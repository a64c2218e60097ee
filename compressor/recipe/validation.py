"""Validation of documents. A fault names its position, the key, the value found, and what is allowed instead."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from compressor.errors import RecipeError, did_you_mean
from compressor.recipe.yaml_source import Path, SourcePosition, YamlDocument, dotted_path, has_path

Block = TypeVar("Block", bound=BaseModel)

ALLOWED = "allowed: "
_KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "string": "a word",
    "tuple": "a list such as [1, 2]",
}
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def validate(
    schema: type[Block], document: YamlDocument, faults: Sequence[tuple[SourcePosition, RecipeError]] = ()
) -> Block:
    """Validate a document.

    Args:
        schema: The model of the document.
        document: The data and their positions.
        faults: Faults that are already known, to be reported with the others.

    Returns:
        The validated data.

    Raises:
        RecipeError: There are faults. The error carries all of them, in the order of their positions.
    """
    faults = [*document.faults, *faults]
    try:
        value = schema.model_validate(document.data)
    except ValidationError as error:
        faults += [_explain(details, document, schema) for details in error.errors(include_url=False)]
    if faults:
        first, *more = _merged(fault for _, fault in sorted(faults, key=lambda fault: (not fault[0].line, fault[0])))
        raise RecipeError(first.code, first.place, first.problem, first.hint, tuple(more))
    return value


def _merged(faults: Iterable[RecipeError]) -> list[RecipeError]:
    """Join what is allowed where a word or a block may stand: pydantic reports both for one value."""
    merged: list[RecipeError] = []
    for fault in faults:
        last = merged[-1] if merged else None
        if last is not None and last.code == "recipe/not-a-block" and last.place == fault.place:
            hint = f"{fault.hint}, or {last.hint.removeprefix(ALLOWED)}"
            merged[-1] = RecipeError(fault.code, fault.place, fault.problem, hint)
        else:
            merged.append(fault)
    return merged


def show_value(value: object) -> str:
    """Write a value as it is shown in a message, in at most 60 characters."""
    match value:
        case None | True | False:
            return {None: "null", True: "true", False: "false"}[value]
        case dict():
            return "a block" if value else "an empty block"
        case list() if any(isinstance(item, dict | list) for item in value):
            return "a list"
        case list():
            text = f"[{', '.join(map(show_value, value))}]"
        case _:
            text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _explain(
    error: ErrorDetails, document: YamlDocument, schema: type[BaseModel]
) -> tuple[SourcePosition, RecipeError]:
    kind, context, code = error["type"], error.get("ctx", {}), "recipe/not-allowed"
    path = _path(error, document.data)
    name = dotted_path(path) or "the recipe"
    value = document.value(path)
    place, problem = _place(document, path), f"{name} is {show_value(value)}"
    match kind:
        case "extra_forbidden":
            code, place, problem = "recipe/unknown-key", document.place(path, of_key=True), f"{name} is not a key"
            options = _keys(schema, path[:-1], document)
            hint = f"{did_you_mean(path[-1], options)}allowed: {', '.join(options) or 'nothing'}"
        case "missing":
            code, problem, hint = "recipe/missing-key", f"{name} is missing", "add it"
        case "refused":
            hint = f"{did_you_mean(value, context['options'])}allowed: {context['allowed']}"
        case "literal_error" | "union_tag_invalid":
            if kind == "union_tag_invalid":  # the error of an optimizer's or a schedule's name stands at its block
                path = (*path, "name")
                value = document.value(path)
                place, problem = document.place(path), f"{dotted_path(path)} is {show_value(value)}"
            expected = str(context.get("expected", context.get("expected_tags")))
            options = re.findall(r"'([^']*)'", expected)
            hint = did_you_mean(value, options) + "allowed: " + expected.replace("'", "")
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            code, (word, key) = "recipe/out-of-range", _BOUNDS[kind]
            hint = f"allowed: a number {word} {context[key]}"
        case "too_short":
            code, hint = "recipe/too-short", "allowed: at least one entry"
        case "string_too_short":
            code, hint = "recipe/too-short", "allowed: at least one character"
        case "string_pattern_mismatch":
            code, hint = "recipe/malformed", f"allowed: a word that matches {context['pattern']}"
        case "model_type" | "model_attributes_type":
            code = "recipe/not-a-block"
            hint = f"{ALLOWED}a block with the keys {', '.join(_keys(schema, path, document))}"
        case _:
            code = "recipe/wrong-type"
            hint = f"allowed: {_KINDS.get(kind.split('_')[0], error['msg'])}"
    return place, RecipeError(code, str(place), problem, hint)


def _place(document: YamlDocument, path: Path) -> SourcePosition:
    """The position of a value; of a block with a key from an override that of the override, which spoilt the block."""
    overrides = [place for key, place in document.values.items() if path and key[:-1] == path and not place.line]
    return overrides[-1] if overrides else document.place(path)


def _path(error: ErrorDetails, data: Any) -> Path:
    """The path of an error in the data. Pydantic's also has the names of the kinds of `optimizer` and `schedule`."""
    path: Path = ()
    for i, part in enumerate(error["loc"]):
        last = i == len(error["loc"]) - 1
        if has_path(data, part) or (last and error["type"] == "missing"):
            path = (*path, part)
            data = data[part] if has_path(data, part) else None
    return path


def _keys(schema: type[BaseModel], path: Path, document: YamlDocument) -> list[str]:
    """The keys that are allowed in the block at `path`."""
    models: list[type[BaseModel]] = [schema]
    for n, part in enumerate(path):
        if isinstance(part, str):
            models = [inner for model in models for inner in _models(_fields(model).get(part))]
        if len(models) > 1:  # kinds that are chosen by name; without one, the first is the default
            name = document.value((*path[: n + 1], "name"))
            models = [model for model in models if model.model_fields["name"].default == name] or models[:1]
    return [key for model in models for key in _fields(model)]


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, FieldInfo):
        annotation = annotation.annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
