"""Which tensor dimensions each field of a configuration of transformers sets, found by building without values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn

from compressor.core import ConfigStep
from compressor.errors import ModelError

Config = Mapping[str, Any]
Build = Callable[[Config], nn.Module]
Shapes = Mapping[str, tuple[int, ...]]

_NO_WIDTH = (
    "token_id", "layers", "vocab", "position", "label", "image_size", "patch", "channels", "version", "num_mel",
    "index", "max_", "_max", "groups", "kernel", "stride",
)  # fmt: skip
"""Words in the names of fields that set no width."""

_HEADS = "head"
_EXPLICIT = ("head_dim", "d_kv", "dim_head", "attention_head_dim")
_STREAMS = ("hidden_size", "d_model", "n_embd", "dim", "embed_dim")  # the widths that numbers of heads divide
MAX_FIELDS = 24
STEPS = (1, 2, 4, 8, 16, 32)
"""Changes of a field that are tried until one more and one less change the same sizes: a bottleneck has a fourth."""


def with_explicit_widths(config: Config) -> Config:
    """Return a configuration that says the widths which follow from others where it has none."""
    if config.get("n_inner", 0) is None and isinstance(config.get("n_embd"), int):
        return {**config, "n_inner": 4 * config["n_embd"]}
    return config


def find_config_steps(build: Build, config: Config) -> tuple[ConfigStep, ...]:
    """Find the fields that set widths, and what one step of each changes.

    A number of heads is no width by itself where the size of a head follows from it: such a pair changes together, so
    that the size of a head stays.

    Args:
        build: Makes the module of a configuration.
        config: The configuration.

    Returns:
        The steps; none where the configuration cannot be varied.
    """
    before = _shapes(build, config)
    if before is None:
        return ()
    steps: list[ConfigStep] = []
    for alternatives in _candidates(config):
        used = {field for step in steps for field in step.fields}
        for changes in alternatives:
            if used & changes.keys():
                continue
            more = _shapes(build, changed_config(config, changes, 1))
            sizes = None if more is None else _differences(before, more)
            if not sizes or not _all_grow(sizes):
                continue
            fewer = _shapes(build, changed_config(config, changes, -1))
            if fewer is not None and sizes == _differences(fewer, before):
                steps.append(ConfigStep(changes, sizes))
                break
    return tuple(steps)


def changed_config(config: Config, fields: Mapping[str, int], count: int) -> dict[str, Any]:
    """Change fields of a configuration.

    Args:
        config: The configuration.
        fields: Field, with the name of its part before a dot, and an index where it is a list: `hidden_sizes[0]` ->
            change of one step.
        count: Number of steps.

    Returns:
        A new configuration.
    """
    new = deepcopy(dict(config))
    for path, change in fields.items():
        part, _, name = path.rpartition(".")
        name, _, at = name.partition("[")
        fields_of_part = new[part] if part else new
        if at:
            fields_of_part[name][int(at.rstrip("]"))] += count * change
        else:
            fields_of_part[name] += count * change
    return new


def slim_config(
    build: Build, config: Config, steps: Sequence[ConfigStep], dense: Shapes, slim: Shapes
) -> dict[str, Any]:
    """Find the configuration of a slim module.

    Args:
        build: Makes the module of a configuration.
        config: The dense module's configuration.
        steps: What it can change.
        dense: Shapes of the dense module's tensors.
        slim: Shapes of the slim module's.

    Returns:
        The configuration that has these shapes.

    Raises:
        ModelError: No configuration has them; the problem names the first tensor that differs.
    """
    new = dict(config)
    for step, count in zip(steps, _count_steps(steps, dense, slim), strict=True):
        new = changed_config(new, step.fields, -count)
    shapes = _shapes(build, new)
    differing = [name for name, shape in slim.items() if shapes is None or shapes.get(name) != shape]
    if differing:
        raise _inexpressible(differing[0], f"no field sets the width of {differing[0]}")
    return new


def _inexpressible(place: str, problem: str) -> ModelError:
    hint = "set prune.widths to config for a folder that it can load"
    return ModelError("model/config-cannot-say-widths", place, problem, hint)


def _count_steps(steps: Sequence[ConfigStep], dense: Shapes, slim: Shapes) -> list[int]:
    """How often each step was taken; a size that two fields set, such as width times ratio, lost the sum of both."""
    sizes = sorted({(name, dim) for step in steps for name, dims in step.sizes.items() for dim in dims if name in slim})
    changes = np.array([[step.sizes.get(name, {}).get(dim, 0) for step in steps] for name, dim in sizes], float)
    lost = np.array([dense[name][dim] - slim[name][dim] for name, dim in sizes], float)
    if not len(sizes):
        return [0] * len(steps)
    counts = np.rint(np.linalg.lstsq(changes, lost, rcond=None)[0])
    wrong = np.flatnonzero(changes @ counts != lost)
    if len(wrong):
        name, dim = sizes[wrong[0]]
        fields = " and ".join(field for step in steps if dim in step.sizes.get(name, {}) for field in step.fields)
        raise _inexpressible(fields, f"layers whose width {fields} sets keep different shares, one of them {name}")
    return [int(count) for count in counts]


def _candidates(config: Config) -> Iterator[list[dict[str, int]]]:
    """Yield alternative changes, of which the first that can be built is taken: of heads first, then of each width."""
    parts = {"": config} | {
        f"{name}.": part for name, part in config.items() if isinstance(part, dict) and "label" not in name
    }
    for prefix, part in parts.items():
        numbers = {name: value for name, value in _flat(part) if _is_size(name, value)}
        heads = {name: value for name, value in numbers.items() if _HEADS in name and name not in _EXPLICIT}
        streams = {name: value for name, value in numbers.items() if name in _STREAMS}
        least = min(heads.values(), default=1)
        if heads and all(value % least == 0 for value in (*heads.values(), *streams.values())):
            alone = {f"{prefix}{name}": value // least for name, value in heads.items()}
            together = alone | {f"{prefix}{name}": value // least for name, value in streams.items()}
            explicit = any(isinstance(part.get(name), int) for name in _EXPLICIT)
            yield [alone, together] if explicit else [together]
        for name in list(numbers)[:MAX_FIELDS]:
            if name not in heads and name not in _EXPLICIT:
                yield [{f"{prefix}{name}": step} for step in STEPS]


def _flat(part: Config) -> Iterator[tuple[str, Any]]:
    """The fields of a part; every entry of a list is one, unless they are numbers of heads."""
    for name, value in part.items():
        if isinstance(value, list) and _HEADS not in name:
            yield from ((f"{name}[{index}]", entry) for index, entry in enumerate(value))
        else:
            yield name, value


def _is_size(name: str, value: object) -> bool:
    is_number = isinstance(value, int) and not isinstance(value, bool) and value > 1
    return is_number and not any(word in name for word in _NO_WIDTH)


def build_on_meta(build: Build, config: Config) -> nn.Module:
    """Build a module whose tensors have shapes only.

    Args:
        build: Makes the module of a configuration.
        config: The configuration.

    Returns:
        The module.
    """
    with torch.device("meta"):
        return build(config)


def _shapes(build: Build, config: Config) -> dict[str, tuple[int, ...]] | None:
    try:
        return {name: tuple(tensor.shape) for name, tensor in build_on_meta(build, config).state_dict().items()}
    except Exception:  # whatever a configuration that does not hang together raises
        return None


def _differences(before: Shapes, after: Shapes) -> dict[str, dict[int, int]] | None:
    """Return the change of every size; None where tensors come, go or change their rank."""
    if before.keys() != after.keys() or any(len(before[name]) != len(after[name]) for name in before):
        return None
    changes = {
        name: {
            dim: new - old for dim, (old, new) in enumerate(zip(before[name], after[name], strict=True)) if new != old
        }
        for name in before
    }
    return {name: dims for name, dims in changes.items() if dims}


def _all_grow(sizes: Mapping[str, Mapping[int, int]]) -> bool:
    return all(change > 0 for dims in sizes.values() for change in dims.values())
