"""Finds the architectures nearest to a state dict that fits none, under any prefix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice

from torch import Tensor

from compressor.core import ImageSize, ModelSpec
from compressor.errors import ModelError
from compressor.models.checkpoints.adapters import refuse_adapters
from compressor.models.identification import fingerprints as index
from compressor.models.identification.fingerprints import Fingerprint, spec_of
from compressor.models.identification.shape_match import ShapeMatch, compare_shapes, expected_or_nothing, shapes_of
from compressor.models.identification.subtree import SMALLEST_PART, Subtree, subtree, subtrees

UNKNOWN_ARCHITECTURE = "checkpoint/unknown-architecture"
MAX_NEAR = 6  # architectures that are built and compared exactly
MAX_PARTS_COMPARED = 8  # of a state dict that are looked at


@dataclass(frozen=True, slots=True)
class Near:
    """An architecture, and the part of a state dict that is nearest to it."""

    entry: Fingerprint
    spec: ModelSpec
    part: Subtree
    fit: ShapeMatch

    @property
    def is_alike(self) -> bool:
        """Whether some tensor has the same name and shape."""
        return len(self.part.tensors) > len(self.fit.extra) + len(self.fit.reshaped)


def nearest(tensors: Mapping[str, Tensor], size: ImageSize | None) -> list[Near]:
    """Find the architectures that share the most with a part: estimated from sketches, then compared exactly.

    Args:
        tensors: The state dict.
        size: Channels, height and width of the input; None takes the architecture's own.

    Returns:
        Up to MAX_NEAR architectures, the nearest first.
    """
    parts = list(islice(subtrees(tensors, max(SMALLEST_PART, len(tensors) // 4)), MAX_PARTS_COMPARED)) or [
        subtree(tensors, "")
    ]
    likeness: dict[str, tuple[float, Fingerprint, Subtree]] = {}
    for part in parts:
        names, shapes = index.sketches(shapes_of(part.tensors))
        for entry in index.read_fingerprints():
            like = index.overlap(names, entry.names_sketch) + index.overlap(shapes, entry.shapes_sketch)
            if like > likeness.get(entry.shapes, (0.0,))[0]:
                likeness[entry.shapes] = like, entry, part
    best = sorted(likeness.values(), key=lambda candidate: -candidate[0])[:MAX_NEAR]
    near = []
    for _, entry, part in best:
        spec = spec_of(entry, shapes_of(part.tensors), size)
        near.append(Near(entry, spec, part, compare_shapes(shapes_of(part.tensors), expected_or_nothing(spec))))
    return sorted(near, key=lambda candidate: candidate.fit.distance)


def unknown_architecture(tensors: Mapping[str, Tensor], where: str, near: list[Near]) -> ModelError:
    """Describe a state dict that fits no known architecture.

    Args:
        tensors: The state dict.
        where: The file that the message names.
        near: The nearest architectures, the nearest first.

    Returns:
        The error.

    Raises:
        ModelError: The reason is that adapters are not merged.
    """
    refuse_adapters(tensors, where)
    alike = [other for other in near if other.is_alike]
    close = [other for other in alike[:3] if other.fit.distance <= 2 * alike[0].fit.distance]
    described = "; ".join(
        f"{other.spec.source} ({other.fit}{f', under {other.part.prefix!r}' if other.part.prefix else ''})"
        for other in close
    )
    indexed = index.library_versions()
    stale = [
        f"{name} {version(name)}, not {indexed.get(name)}"
        for name in index.libraries()
        if version(name) != indexed.get(name)
    ]
    aside = f" (with {' and '.join(stale)})" if stale else ""
    return ModelError(
        UNKNOWN_ARCHITECTURE,
        where,
        f"its {len(tensors)} tensors fit no known architecture{aside}"
        + (f", nearest: {described}" if described else ""),
        "give the whole state dict of one, or name it with --set model.arch=..., "
        "a replaced last layer with model.head=..., or give your code: path/to/net.py:factory@checkpoint",
    )
