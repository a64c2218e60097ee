"""Former names of settings: recipes may still use them. They are replaced before a recipe is validated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compressor.errors import RecipeError
from compressor.methods import methods
from compressor.recipe.method_block import former_keys
from compressor.recipe.yaml_source import Path, YamlDocument, dotted_path


def with_current_keys(document: YamlDocument) -> YamlDocument:
    """Give all settings of methods their current names. A setting that has both names is reported as a fault."""
    for name, method in methods().items():
        block = document.value(("prune", name))
        for former in former_keys(method).keys() & (block.keys() if isinstance(block, dict) else ()):
            document = _with_current_key(document, ("prune", name, former))
    return document


def current_key(path: Path, value: Any) -> tuple[Path, Any]:
    """Give one setting its current name, and its value the form that belongs to it.

    Args:
        path: The path of a key in a recipe.
        value: Its value.

    Returns:
        Both as they are today; unchanged unless the path is the former name of a setting.
    """
    match path:
        case ("prune", str(name), str(key)) if name in methods() and key in former_keys(methods()[name]):
            current, former = former_keys(methods()[name])[key]
            return ("prune", name, current), former.convert(value)
    return path, value


def _with_current_key(document: YamlDocument, path: Path) -> YamlDocument:
    block = document.value(path[:-1])
    target, value = current_key(path, block[path[-1]])
    place = document.place(path, of_key=True)
    if target[-1] in block:
        problem = f"{dotted_path(path)} is the former name of {target[-1]}, which is also given"
        fault = (place, RecipeError("recipe/former-and-current-key", str(place), problem, "keep one"))
        return replace(document.without(path), faults=(*document.faults, fault))

    def renamed(at: Path) -> Path:
        return (*target, *at[len(target) :]) if at[: len(path)] == path else at

    document = replace(
        document,
        keys={renamed(at): where for at, where in document.keys.items()},
        values={renamed(at): where for at, where in document.values.items()},
    )
    return document.without(path).with_value(target, value)
