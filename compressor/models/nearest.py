"""Which architectures are nearest to tensors that fit none, after every prefix was tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice

from torch import Tensor

from compressor.core import ImageSize, ModelSpec
from compressor.errors import ModelError
from compressor.models import fingerprints as index
from compressor.models.adapters import refuse_adapters
from compressor.models.fingerprints import Fingerprint, spec_of
from compressor.models.shape_match import ShapeMatch, compare_shapes, expected_or_nothing, shapes_of
from compressor.models.subtree import SMALLEST_PART, Subtree, subtree, subtrees

MOST_NEAR = 6  # architectures that are built and compared exactly
MOST_PARTS = 8  # of a state dict that are looked at


@dataclass(frozen=True, slots=True)
class Near:
    """An architecture, and the part of a state dict that is nearest to it."""

    entry: Fingerprint
    spec: ModelSpec
    part: Subtree
    fit: ShapeMatch


def nearest(tensors: Mapping[str, Tensor], size: ImageSize | None) -> list[Near]:
    """Some architectures that share the most with a part, estimated from sketches and then compared exactly."""
    parts = list(islice(subtrees(tensors, max(SMALLEST_PART, len(tensors) // 4)), MOST_PARTS)) or [subtree(tensors, "")]
    likeness: dict[str, tuple[float, Fingerprint, Subtree]] = {}
    for part in parts:
        names, shapes = index.sketches(shapes_of(part.tensors))
        for entry in index.read_fingerprints():
            like = index.overlap(names, entry.names_sketch) + index.overlap(shapes, entry.shapes_sketch)
            if like > likeness.get(entry.shapes, (0.0,))[0]:
                likeness[entry.shapes] = like, entry, part
    best = sorted(likeness.values(), key=lambda candidate: -candidate[0])[:MOST_NEAR]
    near = []
    for _, entry, part in best:
        spec = spec_of(entry, shapes_of(part.tensors), size)
        near.append(Near(entry, spec, part, compare_shapes(shapes_of(part.tensors), expected_or_nothing(spec))))
    return sorted(near, key=lambda candidate: candidate.fit.distance)


def unknown_architecture(tensors: Mapping[str, Tensor], where: str, near: list[Near]) -> ModelError:
    refuse_adapters(tensors, where)
    close = [other for other in near[:3] if other.fit.distance <= 2 * near[0].fit.distance]
    listed = "; ".join(
        f"{other.spec.source} ({other.fit}{f', under {other.part.prefix!r}' if other.part.prefix else ''})"
        for other in close
    )
    made = index.library_versions()
    stale = [f"{name} {version(name)}, not {made[name]}" for name in index.LIBRARIES if version(name) != made[name]]
    aside = f" (with {' and '.join(stale)})" if stale else ""
    return ModelError(
        "checkpoint/unknown-architecture",
        where,
        f"its {len(tensors)} tensors fit no known architecture{aside}" + (f", nearest: {listed}" if listed else ""),
        "give the whole state dict of one, or name it with --set model.arch=..., "
        "a replaced last layer with model.head=..., or give your code: path/to/net.py:factory@checkpoint",
    )
