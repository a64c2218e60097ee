"""YAML as plain data, with the line and column of each key and value.

Scalars follow YAML 1.2: `1e-3` is a number, `yes` and `on` are words, `010` is ten. Aliases, tags and duplicate keys
are refused: a recipe needs none of them, and with them a small file can become a huge or a wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
    # Longer numbers are floats below: they fit no field, and int() refuses the very long ones.
    "int": (r"[-+]?[0-9]{1,18}", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


@dataclass(frozen=True, slots=True, order=True)
class SourcePosition:
    """`recipe.yaml:3:7`, or the name of the source alone if it has no lines (`--set key=value`)."""

    line: int  # counted from 1; 0 if there are no lines
    column: int
    source: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """Plain data, and the position of each of its keys and values."""

    data: Any
    keys: Mapping[Path, SourcePosition] = field(default_factory=dict)
    values: Mapping[Path, SourcePosition] = field(default_factory=dict)
    faults: tuple[tuple[SourcePosition, RecipeError], ...] = ()

    def place(self, path: Path, *, of_key: bool = False) -> SourcePosition:
        """Return the position of a value; for one that is not written, that of the nearest block around it.

        Args:
            path: The path of the value.
            of_key: Return the position of its key instead, if the key is written.

        Returns:
            The position.
        """
        if of_key and path in self.keys:
            return self.keys[path]
        return next(self.values[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.values)

    def value(self, path: Path) -> Any:
        """Return the value at `path`, or None if there is none."""
        value = self.data
        for part in path:
            if not has_path(value, part):
                return None
            value = value[part]
        return value

    def without(self, path: Path) -> YamlDocument:
        """Return the document without the value at `path` and its positions. A value in a list is set to None."""

        def outside(positions: Mapping[Path, SourcePosition]) -> dict[Path, SourcePosition]:
            return {at: where for at, where in positions.items() if at[: len(path)] != path}

        return replace(self, data=_without(self.data, path), keys=outside(self.keys), values=outside(self.values))

    def with_value(self, path: Path, value: object) -> YamlDocument:
        """Return the document with another value.

        Args:
            path: The path of the value. It leads through blocks and existing indices of lists.
            value: The new value.

        Returns:
            The document; its positions are unchanged.
        """
        return replace(self, data=_with_value(self.data, path, value))


def _without(data: Any, path: Path) -> Any:
    head, *rest = path
    if not has_path(data, head):
        return data
    if isinstance(data, list):
        return [(_without(item, tuple(rest)) if rest else None) if i == head else item for i, item in enumerate(data)]
    return {k: _without(item, tuple(rest)) if k == head else item for k, item in data.items() if rest or k != head}


def _with_value(data: Any, path: Path, value: object) -> Any:
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(data, list):
        return [_with_value(item, rest, value) if i == head else item for i, item in enumerate(data)]
    block = data or {}
    return {**block, head: _with_value(block.get(head), rest, value)}


def has_path(block: object, part: str | int) -> bool:
    """Check for a key or an index.

    Args:
        block: Any value.
        part: A key, or an index of a list.

    Returns:
        Whether `block` is a mapping with this key, or a list with this index.
    """
    if isinstance(part, int):
        return isinstance(block, list) and 0 <= part < len(block)
    return isinstance(block, dict) and part in block


def parse_yaml(text: str, source: str) -> YamlDocument:
    """Parse one YAML document. Duplicate keys are collected in `faults`.

    Args:
        text: The document.
        source: Its name in messages.

    Returns:
        The data and their positions.

    Raises:
        RecipeError: The text is not YAML, or has an alias or a tag, or is nested too deeply.
    """
    try:
        node = _Loader(text, source).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = SourcePosition(mark.line + 1, mark.column + 1, source) if mark else SourcePosition(0, 0, source)
        problem = f"it is not valid YAML: {error.problem or error.context}"
        raise RecipeError("recipe/not-yaml", str(place), problem, "correct this line") from None
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

    def _construct(node: Node, path: Path) -> Any:
        """The data of a node, whose positions are collected."""
        values[path] = _place(node, source)
        if isinstance(node, MappingNode):
            block: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = key_node.value if isinstance(key_node, ScalarNode) else "?"
                place = _place(key_node, source)
                if key in block:
                    problem = f"{dotted_path((*path, key))} is set again; it was first set at {keys[(*path, key)]}"
                    faults.append((place, RecipeError("recipe/duplicate-key", str(place), problem, "keep one of them")))
                    continue
                keys[(*path, key)] = place
                block[key] = _construct(value_node, (*path, key))
            return block
        if isinstance(node, SequenceNode):
            return [_construct(item, (*path, i)) for i, item in enumerate(node.value)]
        return _scalar(node)

    data = _construct(node, ()) if node is not None else None
    return YamlDocument(data, keys, values, tuple(faults))


def dotted_path(path: Path) -> str:
    """Write a path as a dotted key: `prune.layers.0.ratio`."""
    return ".".join(map(str, path))


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Write plain data as YAML: one line for each key, innermost lists and mappings in one line."""
    return yaml.dump(data, Dumper=_Dumper, default_flow_style=None, sort_keys=False, allow_unicode=True, width=110)


def _place(node: Node | NodeEvent, source: str) -> SourcePosition:
    mark = node.start_mark
    assert mark is not None  # the parser sets it on every node
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
            # float() reads inf and nan without the dot of YAML.
            return float(text.replace(".", "") if text[-1].isalpha() else text)
        case _:
            return text


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012  (PyYAML has them in the class)

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self.source = source
        self.depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """Refuse aliases, tags and deep nesting.

        Raises:
            RecipeError: The node is one of these.
        """
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
    """Quotes every word that a reader of YAML 1.1 or this one would not read as a word."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: object) -> bool:
        return True


for _tag, (_pattern, _first) in _SCALARS.items():
    for _reader in (_Loader, _Dumper):
        _reader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
