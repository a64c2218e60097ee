"""What a module answers, whatever it is wrapped in: the tensors in order, each with a name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

from torch import Tensor


def tensors(output: object) -> list[Tensor]:
    """Every tensor in the module's output, depth first: of dicts, sequences and dataclasses, in their own order."""
    return [tensor for _, tensor in _leaves(output, "")]


def names(output: object) -> list[str]:
    """A name for each tensor: `output` for a single one, its key or field, or its place as in `output_0`."""
    found = [path or "output" for path, _ in _leaves(output, "")]
    return [name if found.count(name) == 1 else f"{name}_{index}" for index, name in enumerate(found)]


def is_plain(output: object) -> bool:
    """Whether it is a tensor or a flat sequence of tensors, which every exporter takes as it is."""
    parts = output if isinstance(output, list | tuple) else [output]
    return all(isinstance(part, Tensor) for part in parts)


def _leaves(output: object, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield path, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from _leaves(value, f"{path}_{key}" if path else str(key))
    elif is_dataclass(output):
        for field in fields(output):
            yield from _leaves(getattr(output, field.name), f"{path}_{field.name}" if path else field.name)
    elif isinstance(output, list | tuple):
        for index, value in enumerate(output):
            yield from _leaves(value, f"{path or 'output'}_{index}")
