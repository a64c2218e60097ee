"""What pydantic found, in the user's words: place, dotted key, value found, what is allowed, what was meant."""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from compressor.errors import RecipeError, did_you_mean
from compressor.recipe.yaml_source import Path, SourcePosition, YamlDocument, dotted_path, has_path

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


def explain_errors(
    error: ValidationError, tree: YamlDocument, schema: type[BaseModel]
) -> list[tuple[SourcePosition, RecipeError]]:
    """One fault for each error, with the place it stands at."""
    return [_explain(each, tree, schema) for each in error.errors(include_url=False)]


def show_value(value: object) -> str:
    """A value as it may be printed in a line."""
    match value:
        case None | True | False:
            return {None: "null", True: "true", False: "false"}[value]
        case dict():
            return "a block" if value else "an empty block"
        case list() if any(isinstance(each, dict | list) for each in value):
            return "a list"
        case list():
            text = f"[{', '.join(map(show_value, value))}]"
        case _:
            text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _explain(error: ErrorDetails, tree: YamlDocument, schema: type[BaseModel]) -> tuple[SourcePosition, RecipeError]:
    kind, context, code = error["type"], error.get("ctx", {}), "recipe/not-allowed"
    path = _path(error, tree.data)
    name = dotted_path(path) or "the recipe"
    place = tree.place(path)
    problem = f"{name} is {show_value(tree.value(path))}"
    match kind:
        case "extra_forbidden":
            code, place = "recipe/unknown-key", tree.place(path, of_key=True)
            options = _keys(schema, path[:-1], tree)
            problem = f"{name} is not a key"
            hint = f"{did_you_mean(path[-1], options)}allowed: {', '.join(options) or 'nothing'}"
        case "missing":
            code, problem, hint = "recipe/missing-key", f"{name} is missing", "add it"
        case "refused":
            hint = f"{did_you_mean(tree.value(path), context['options'])}allowed: {context['allowed']}"
        case "literal_error" | "union_tag_invalid":
            path = (*path, "name") if kind == "union_tag_invalid" else path
            place, problem = tree.place(path), f"{dotted_path(path)} is {show_value(tree.value(path))}"
            options = re.findall(r"'([^']*)'", str(context.get("expected", context.get("expected_tags"))))
            allowed = str(context.get("expected", context.get("expected_tags"))).replace("'", "")
            hint = f"{did_you_mean(tree.value(path), options)}allowed: {allowed}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            code, (word, key) = "recipe/out-of-range", _BOUNDS[kind]
            hint = f"allowed: a number {word} {context[key]}"
        case "too_short" | "string_too_short":
            code, hint = "recipe/too-short", "allowed: at least one"
        case "model_type" | "model_attributes_type":
            code = "recipe/not-a-block"
            hint = f"write it as a block of: {', '.join(_keys(schema, path, tree))}"
        case _:
            code = "recipe/wrong-type"
            hint = f"allowed: {_KINDS.get(kind.split('_')[0], error['msg'])}"
    return place, RecipeError(code, str(place), problem, hint)


def _path(error: ErrorDetails, data: Any) -> Path:
    """The error's place in the data: pydantic's also names the kinds of `optimizer` and `schedule`."""
    path: Path = ()
    for i, part in enumerate(error["loc"]):
        last = i == len(error["loc"]) - 1
        if has_path(data, part) or (last and error["type"] == "missing"):
            path = (*path, part)
            data = data[part] if has_path(data, part) else None
    return path


def _keys(schema: type[BaseModel], path: Path, tree: YamlDocument) -> list[str]:
    """The keys that may stand in the block at `path`."""
    models: list[type[BaseModel]] = [schema]
    for n, part in enumerate(path):
        if isinstance(part, str):
            models = [deeper for model in models for deeper in _models(_fields(model).get(part))]
        if len(models) > 1:  # kinds that go by name; unnamed, the first is the default
            name = tree.value((*path[: n + 1], "name"))
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
