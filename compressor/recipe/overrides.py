"""`--set key.path=value`: one leaf or one branch of a recipe replaced, before it is checked like the rest."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from compressor.errors import RecipeError
from compressor.methods import methods
from compressor.recipe.fields import given
from compressor.recipe.optimizer_config import OPTIMIZERS
from compressor.recipe.prune_config import TargetConfig
from compressor.recipe.retrain_config import SCHEDULES
from compressor.recipe.yaml_source import Path, SourcePosition, YamlDocument, dotted_path, has_path, parse_yaml

_KEY = re.compile(r"[\w-]+(?:\.[\w-]+)*")


def override(tree: YamlDocument, text: str) -> YamlDocument:
    """`tree` with the value of `text` (`key.path=value`, the value in YAML) put in its place.

    Neighbours from the file that make no sense beside the new leaf go: see `_displaced`. Those set by another
    override stay, so that two overrides that contradict each other are reported.

    Raises:
        RecipeError: no `=`, no such place in a list or word, or a value that is no YAML.
    """
    place = SourcePosition(0, 0, f"--set {text}")
    key, equals, value_text = text.partition("=")
    if not equals or not _KEY.fullmatch(key.strip()):
        raise _fault(
            "recipe/malformed-override",
            place,
            "it is not of the form key.path=value",
            "write for example --set retrain.epochs=5",
        )
    try:
        value = parse_yaml(value_text, "its value")
    except RecipeError as fault:
        raise _fault(fault.code, place, fault.problem, fault.hint) from None
    if value.faults:
        raise _fault("recipe/duplicate-key", place, "its value contains a key twice", "keep one")
    path = _path(tree.data, key.strip())
    gone = {each for each in _displaced(path, value.data, tree) if tree.place(each).line}
    data = _put(tree.data, path, value.data, place)
    for each in gone:
        data = _without(data, each)
    gone.add(path)
    stays = {at: where for at, where in tree.values.items() if not any(at[: len(out)] == out for out in gone)}
    made = {path[:n]: place for n in range(1, len(path) + 1) if path[:n] not in stays}
    keys = {at: where for at, where in tree.keys.items() if at in stays}
    return replace(tree, data=data, keys=keys | made, values=stays | made)


def _displaced(path: Path, value: object, tree: YamlDocument) -> set[Path]:
    """What the new value at `path` rules out: another kind of target, another kind's settings, a rate that meant
    something else."""
    above = path[:-1]
    match path:
        case ("prune", "target", "ratio") if value is not None:
            return {(*above, key) for key in TargetConfig.model_fields if key != "ratio"}
        case ("prune", "target", key) if value is not None and key in TargetConfig.model_fields:
            return {(*above, "ratio")}
        case ("prune", "method"):
            return {(*above, method) for method in methods() if method != value}
        case ("retrain", "optimizer" | "schedule" as block, "name"):
            kind = (OPTIMIZERS | SCHEDULES).get(str(value))
            strangers = given(tree.value(above)).keys() - kind.model_fields.keys() if kind else set()
            return {(*above, key) for key in strangers} | (_rate(value, tree) if block == "schedule" else set())
        case ("retrain", "schedule"):
            return _rate(given(value).get("name"), tree)
    return set()


def _rate(name: object, tree: YamlDocument) -> set[Path]:
    """The optimizer's rate, where one of the schedule before and the new one called `name` takes it for the original
    training's and the other does not."""
    before, after = (SCHEDULES.get(str(each)) for each in (tree.value(("retrain", "schedule", "name")), name))
    changes = (before is not None and before.of_original) != (after is not None and after.of_original)
    return {("retrain", "optimizer", "lr")} if changes else set()


def _path(data: object, key: str) -> Path:
    """`prune.layers.0.ratio` -> ("prune", "layers", 0, "ratio"): a number counts in lists, and is a key elsewhere."""
    path: Path = ()
    for part in key.split("."):
        step = int(part) if isinstance(data, list) and part.isdecimal() and len(part) < 6 else part
        path = (*path, step)
        data = data[step] if has_path(data, step) else None  # type: ignore[index]
    return path


def _put(data: Any, path: Path, value: object, place: SourcePosition, above: Path = ()) -> Any:
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(data, list):
        if not has_path(data, head):
            raise _fault(
                "recipe/no-such-index",
                place,
                f"{dotted_path(above)} is a list of {len(data)}",
                "use an index from 0, or set the list as a whole",
            )
        return [_put(each, rest, value, place, (*above, i)) if i == head else each for i, each in enumerate(data)]
    if not isinstance(data, dict | None):
        raise _fault(
            "recipe/not-a-block",
            place,
            f"{dotted_path(above)} is {data!r}, not a block",
            f"set {dotted_path(above)} as a whole",
        )
    block = data or {}
    return {**block, head: _put(block.get(head), rest, value, place, (*above, head))}


def _without(data: Any, path: Path) -> Any:
    head, rest = path[0], path[1:]
    if not has_path(data, head):
        return data
    return {key: _without(value, rest) if key == head else value for key, value in data.items() if rest or key != head}


def _fault(code: str, place: SourcePosition, problem: str, hint: str) -> RecipeError:
    return RecipeError(code, str(place), problem, hint)
