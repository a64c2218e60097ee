"""`--set key.path=value`: replace one key or one block of a recipe before the recipe is validated."""

from __future__ import annotations

import re
from dataclasses import replace

from compressor.errors import RecipeError
from compressor.methods import methods
from compressor.recipe.block import written_keys
from compressor.recipe.former_keys import current_key, with_current_keys
from compressor.recipe.optimizer_config import OPTIMIZERS
from compressor.recipe.prune_config import TargetConfig
from compressor.recipe.retrain_config import SCHEDULES
from compressor.recipe.yaml_source import Path, SourcePosition, YamlDocument, dotted_path, has_path, parse_yaml

_KEY = re.compile(r"[\w-]+(?:\.[\w-]+)*")


def override(document: YamlDocument, text: str) -> YamlDocument:
    """Set one key of a recipe.

    Keys from the file that contradict the new value are removed, see `_displaced`. Keys from other overrides are kept,
    so that two overrides that contradict each other are reported.

    Args:
        document: The recipe.
        text: `key.path=value`, with the value in YAML.

    Returns:
        The recipe with the value.

    Raises:
        RecipeError: There is no `=`, the path leads through a list or a word, or the value is not YAML.
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
        parsed = parse_yaml(value_text, "its value")
    except RecipeError as error:
        raise _fault(error.code, place, error.problem, error.hint) from None
    if parsed.faults:
        raise _fault("recipe/duplicate-key", place, "its value contains a key twice", "keep one")
    path, value = current_key(_path(document.data, key.strip()), parsed.data)
    _check_path(document, path, place)
    for displaced in _displaced(path, value, document):
        if document.place(displaced).line:
            document = document.without(displaced)
    document = document.without(path).with_value(path, value)
    new = {path[:n]: place for n in range(1, len(path) + 1) if path[:n] not in document.values}
    return with_current_keys(replace(document, keys={**document.keys, **new}, values={**document.values, **new}))


def _displaced(path: Path, value: object, document: YamlDocument) -> set[Path]:
    """The keys that contradict the new value.

    These are other kinds of target, the settings of another method, optimizer or schedule, and a learning rate that had
    another meaning.
    """
    parent = path[:-1]
    match path:
        case ("prune", "target", "ratio") if value is not None:
            return {(*parent, key) for key in TargetConfig.model_fields if key != "ratio"}
        case ("prune", "target", key) if value is not None and key in TargetConfig.model_fields:
            return {(*parent, "ratio")}
        case ("prune", "method"):
            return {(*parent, method) for method in methods() if method != value}
        case ("retrain", "optimizer" | "schedule" as block, "name"):
            kind = (OPTIMIZERS | SCHEDULES).get(str(value))
            unknown = written_keys(document.value(parent)).keys() - kind.model_fields.keys() if kind else set()
            rate = _displaced_rate(value, document) if block == "schedule" else set()
            return {(*parent, key) for key in unknown} | rate
        case ("retrain", "schedule"):
            return _displaced_rate(written_keys(value).get("name"), document)
    return set()


def _displaced_rate(name: object, document: YamlDocument) -> set[Path]:
    """The optimizer's rate, if its meaning changes with the schedule: some schedules take the original training's."""
    so_far = SCHEDULES.get(str(document.value(("retrain", "schedule", "name"))))
    new = SCHEDULES.get(str(name))
    changes = (so_far is not None and so_far.of_original) != (new is not None and new.of_original)
    return {("retrain", "optimizer", "lr")} if changes else set()


def _path(data: object, key: str) -> Path:
    """`prune.layers.0.ratio` is ("prune", "layers", 0, "ratio"). A number is an index in a list, a key elsewhere."""
    path: Path = ()
    for part in key.split("."):
        step = int(part) if isinstance(data, list) and part.isdecimal() and len(part) < 6 else part
        path = (*path, step)
        data = data[step] if has_path(data, step) else None  # type: ignore[index]
    return path


def _check_path(document: YamlDocument, path: Path, place: SourcePosition) -> None:
    for n in range(len(path)):
        block, name = document.value(path[:n]), dotted_path(path[:n]) or "the recipe"
        if isinstance(block, list):
            if not has_path(block, path[n]):
                problem, hint = f"{name} is a list of {len(block)}", "use an index from 0, or set the list as a whole"
                raise _fault("recipe/no-such-index", place, problem, hint)
        elif not isinstance(block, dict | None):
            problem = f"{name} is {block!r}, not a block"
            raise _fault("recipe/not-a-block", place, problem, f"set {name} as a whole")


def _fault(code: str, place: SourcePosition, problem: str, hint: str) -> RecipeError:
    return RecipeError(code, str(place), problem, hint)
