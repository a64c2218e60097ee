"""Compares tensors with an architecture by names and shapes, before any weight is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compressor.core import ModelSpec, one_image
from compressor.errors import ModelError
from compressor.listed import listed
from compressor.models.build import build_named

Shapes = Mapping[str, tuple[int, ...]]
COUNTER = "num_batches_tracked"  # absent from checkpoints older than 2018, and of no effect in eval mode

_PROBE_CLASSES = (1000, 1013)
_PROBE_CHANNELS = (3, 5)


@dataclass(frozen=True, slots=True)
class ShapeMatch:
    """The differences between tensors and an architecture."""

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    reshaped: tuple[str, ...]  # "fc.weight is 7x512, not 1000x512"

    @property
    def ok(self) -> bool:
        return not (self.missing or self.extra or self.reshaped)

    @property
    def distance(self) -> int:
        return len(self.missing) + len(self.extra) + len(self.reshaped)

    def __str__(self) -> str:
        parts = [
            f"{len(names)} {what} ({listed(names, 3)})"
            for names, what in (
                (self.missing, "missing"),
                (self.extra, "extra"),
                (self.reshaped, "of another shape"),
            )
            if names
        ]
        return ", ".join(parts) or "all fit"


def shapes_of(module: nn.Module | Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a state dict, by name."""
    state = module.state_dict() if isinstance(module, nn.Module) else module
    return {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}


def expected_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of an architecture, without allocating its weights."""
    with torch.device("meta"):
        return shapes_of(build_named(spec))


def expected_or_nothing(spec: ModelSpec) -> Shapes:
    """Return the expected shapes; none if the installed library cannot build the architecture."""
    try:
        return expected_shapes(spec)
    except ModelError:
        return {}


def compare_shapes(shapes: Shapes, expected: Shapes) -> ShapeMatch:
    """Compare tensors with an architecture. Missing batch counters are no difference.

    Args:
        shapes: The shapes of the tensors.
        expected: The shapes of the architecture.

    Returns:
        The differences.
    """
    return ShapeMatch(
        missing=tuple(name for name in expected if name not in shapes and not name.endswith(COUNTER)),
        extra=tuple(name for name in shapes if name not in expected),
        reshaped=tuple(
            f"{name} is {_x(shape)}, not {_x(expected[name])}"
            for name, shape in shapes.items()
            if name in expected and shape != expected[name]
        ),
    )


def under_prefix(tensors: Mapping[str, Tensor], expected: Shapes) -> Mapping[str, Tensor]:
    """Add a prefix that the file lacks to the names of the tensors, if they fit only with it.

    Args:
        tensors: The state dict.
        expected: The shapes of the architecture.

    Returns:
        The tensors, renamed if that makes them fit.
    """
    if compare_shapes(shapes_of(tensors), expected).ok:
        return tensors
    words = next(iter(expected), "").split(".")
    for count in range(1, len(words)):
        prefix = ".".join(words[:count]) + "."
        longer = {prefix + name: value for name, value in tensors.items()}
        if compare_shapes(shapes_of(longer), expected).ok:
            return longer
    return tensors


def _x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"


@dataclass(frozen=True, slots=True)
class FreeDim:
    """A dimension that follows the class count or the input channels: size = factor * count + offset."""

    tensor: str
    dim: int
    follows: Literal["classes", "channels"]
    factor: int
    offset: int


def free_dims(default: Shapes, other: Shapes) -> tuple[FreeDim, ...]:
    """Find the dimensions that follow the class count or the input channels.

    Args:
        default: Shapes with 1000 classes and 3 channels.
        other: Shapes with 1013 classes and 5 channels.

    Returns:
        The dimensions that differ.
    """
    free: list[FreeDim] = []
    classes, channels = _PROBE_CLASSES[1] - _PROBE_CLASSES[0], _PROBE_CHANNELS[1] - _PROBE_CHANNELS[0]
    for name, shape in default.items():
        for dim, (size, changed) in enumerate(zip(shape, other[name], strict=True)):
            if size == changed:
                continue
            if (changed - size) % classes == 0:
                factor = (changed - size) // classes
                free.append(FreeDim(name, dim, "classes", factor, size - factor * _PROBE_CLASSES[0]))
            else:
                factor = (changed - size) // channels
                free.append(FreeDim(name, dim, "channels", factor, size - factor * _PROBE_CHANNELS[0]))
    return tuple(free)


def probe_free_dims(
    source: str, size: tuple[int, int], *, headless: bool = False
) -> tuple[Shapes, tuple[FreeDim, ...]]:
    """Build an architecture twice without weights and find its free dimensions.

    Args:
        source: The architecture.
        size: Height and width of the input.
        headless: Whether to build it without a classifier.

    Returns:
        The shapes with 1000 classes and 3 channels, and the free dimensions.

    Raises:
        ModelError: The architecture cannot be built.
    """
    first, second = (0, 0) if headless else _PROBE_CLASSES
    three, five = _PROBE_CHANNELS
    default = expected_shapes(ModelSpec(source, one_image((three, *size)), first))
    try:
        other = expected_shapes(ModelSpec(source, one_image((five, *size)), second))
    except ModelError:  # an architecture that takes colour images only
        other = expected_shapes(ModelSpec(source, one_image((three, *size)), second))
    return default, free_dims(default, other)


def class_counts(shapes: Shapes, free: tuple[FreeDim, ...]) -> dict[str, int] | None:
    """Solve for the class count and the input channels that the tensors imply.

    Args:
        shapes: The shapes of the tensors.
        free: The free dimensions of the architecture.

    Returns:
        Counts of "classes" and "channels"; None if tensors are missing or contradict one another.
    """
    implied: dict[str, int] = {}
    for dim in free:
        shape = shapes.get(dim.tensor)
        if shape is None or len(shape) <= dim.dim:
            return None
        count, rest = divmod(shape[dim.dim] - dim.offset, dim.factor)
        if rest or count < 1 or implied.setdefault(dim.follows, count) != count:
            return None
    return implied


def likely_counts(shapes: Shapes, free: tuple[FreeDim, ...]) -> dict[str, int]:
    """Take the counts that most of the present tensors imply, for an estimate of how far the rest are from fitting.

    Args:
        shapes: The shapes of the tensors.
        free: The free dimensions of the architecture.

    Returns:
        Counts of "classes" and "channels".
    """
    votes = Counter(vote for dim in free for vote in (class_counts(shapes, (dim,)) or {}).items())
    return dict(vote for vote, _ in reversed(votes.most_common()))  # the last of a name counts
