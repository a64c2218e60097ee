"""YAML with places: plain data, and for each key and value the line and column it stands at.

Scalars follow YAML 1.2: `1e-3` is a number, `yes` and `on` are words, `010` is ten. Aliases, tags and duplicate
keys are refused: a recipe needs none of them, and they are how a small file becomes a large or a wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.events import AliasEvent, CollectionStartEvent, NodeEvent, ScalarEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from compressor.errors import RecipeError

Path = tuple[str | int, ...]
MAX_DEPTH = 16

_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    # Longer runs of digits are floats below: they fit no field, and int() refuses the very long ones.
    "int": (r"[-+]?[0-9]{1,18}", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


@dataclass(frozen=True, slots=True, order=True)
class SourcePosition:
    """`recipe.yaml:3:7`, or where no line exists (`--set key=value`) just what it is called."""

    line: int  # counted from 1; 0 where there is none
    column: int
    source: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """Plain data and where each of its keys and values was written."""

    data: Any
    keys: Mapping[Path, SourcePosition] = field(default_factory=dict)
    values: Mapping[Path, SourcePosition] = field(default_factory=dict)
    faults: tuple[tuple[SourcePosition, RecipeError], ...] = ()

    def place(self, path: Path, *, of_key: bool = False) -> SourcePosition:
        """Where `path` stands; for what is not written, where the nearest block around it does."""
        if of_key and path in self.keys:
            return self.keys[path]
        return next(self.values[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.values)

    def value(self, path: Path) -> Any:
        """What stands at `path`; None where nothing does."""
        value = self.data
        for part in path:
            if not has_path(value, part):
                return None
            value = value[part]
        return value


def has_path(block: object, part: str | int) -> bool:
    """Whether `block` is a mapping with this key, or a list with this index."""
    if isinstance(part, int):
        return isinstance(block, list) and 0 <= part < len(block)
    return isinstance(block, dict) and part in block


def parse_yaml(text: str, source: str) -> YamlDocument:
    """One YAML document as plain data with places; duplicate keys are collected in `faults`.

    Raises:
        RecipeError: the text is no YAML, or YAML of a kind that is refused.
    """
    try:
        node = _Loader(text, source).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = SourcePosition(mark.line + 1, mark.column + 1, source) if mark else SourcePosition(0, 0, source)
        raise RecipeError(
            "recipe/not-yaml",
            str(place),
            f"it is not valid YAML: {error.problem or error.context}",
            "correct this line",
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        place = SourcePosition(line, column, source)
        raise RecipeError(
            "recipe/forbidden-character", str(place), f"the character {error.character!r} is not allowed", "remove it"
        ) from None
    keys: dict[Path, SourcePosition] = {}
    values: dict[Path, SourcePosition] = {(): SourcePosition(1, 1, source)}
    faults: list[tuple[SourcePosition, RecipeError]] = []

    def plain(node: Node, path: Path) -> Any:
        values[path] = _place(node, source)
        if isinstance(node, MappingNode):
            block: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = key_node.value if isinstance(key_node, ScalarNode) else "?"
                at = _place(key_node, source)
                if key in block:
                    name, first = dotted_path((*path, key)), keys[(*path, key)]
                    problem = f"{name} is set again; it was first set at {first}"
                    faults.append((at, RecipeError("recipe/duplicate-key", str(at), problem, "keep one of them")))
                    continue
                keys[(*path, key)] = at
                block[key] = plain(value_node, (*path, key))
            return block
        if isinstance(node, SequenceNode):
            return [plain(each, (*path, i)) for i, each in enumerate(node.value)]
        return _scalar(node)

    data = plain(node, ()) if node is not None else None
    return YamlDocument(data, keys, values, tuple(faults))


def dotted_path(path: Path) -> str:
    return ".".join(map(str, path))


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML: blocks by line, innermost lists and mappings in one."""
    return yaml.dump(data, Dumper=_Dumper, default_flow_style=None, sort_keys=False, allow_unicode=True, width=110)


def _place(node: Node | NodeEvent, source: str) -> SourcePosition:
    mark = node.start_mark
    assert mark is not None  # only events made by hand have none
    return SourcePosition(mark.line + 1, mark.column + 1, source)


def _scalar(node: Node) -> Any:
    text = str(node.value)
    match node.tag.rpartition(":")[2]:
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text)
        case "float":
            return float(text.replace(".inf", "inf").replace(".nan", "nan") if text[-1].isalpha() else text)
        case _:
            return text


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012  (how PyYAML wants them replaced)

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self.source = source
        self.depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event: NodeEvent = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it out
        if isinstance(event, AliasEvent):
            raise self._refused("recipe/alias", event, "an alias (*name) is not allowed", "write the value itself")
        if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
            raise self._refused(
                "recipe/tag", event, f"the tag {event.tag} is not allowed", "write the value without it"
            )
        if self.depth > MAX_DEPTH:
            raise self._refused(
                "recipe/too-deep", event, f"it is nested deeper than {MAX_DEPTH} levels", "remove levels"
            )
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _refused(self, code: str, event: NodeEvent, problem: str, hint: str) -> RecipeError:
        return RecipeError(code, str(_place(event, self.source)), problem, hint)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever a YAML 1.1 reader or ours would take for something else than a word."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: list(known) for first, known in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: object) -> bool:
        return True


for _tag, (_pattern, _first) in _SCALARS.items():
    for _reader in (_Loader, _Dumper):
        _reader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
