"""Fingerprints of all named architectures: a state dict is identified without building each of them.

`python -m compressor.models.identification.fingerprints [FAMILY ...]` builds them on the meta device and writes
`index.json.gz`. A new family takes seconds by its name; all take about ten minutes, which is needed when torchvision or
timm change. A fingerprint ignores class count, input channels and batch counters. A sketch holds the smallest hashes of
a set, from which the overlap of two sets can be estimated.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

from compressor.core import ImageSize, ModelSpec, one_image
from compressor.errors import ModelError
from compressor.models.build import model_defaults
from compressor.models.families import named_families
from compressor.models.identification.shape_match import (
    COUNTER,
    FreeDim,
    Shapes,
    class_counts,
    likely_counts,
    probe_free_dims,
)

FILE = Path(__file__).with_name("index.json.gz")
SKETCH_SIZE = 16

Sketch = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The fingerprint of one architecture; `headless` means built without classes, if that is its default."""

    source: str
    headless: bool
    names: str  # fingerprint of the tensor names
    shapes: str  # fingerprint of names and shapes, free dimensions left open
    names_sketch: Sketch
    shapes_sketch: Sketch
    free: tuple[FreeDim, ...]

    def fits(self, shapes: Shapes) -> bool:
        """Return whether tensors with these names also have the shapes, for any class count and input channels."""
        return (
            class_counts(shapes, self.free) is not None and _fingerprint(_shape_words(shapes, self.free)) == self.shapes
        )


def spec_of(entry: Fingerprint, shapes: Shapes, size: ImageSize | None) -> ModelSpec:
    """Return the architecture with the classes and input channels that tensors imply.

    Args:
        entry: The fingerprint of the architecture.
        shapes: The shapes of the tensors.
        size: Channels, height and width of the input; None takes the architecture's own.

    Returns:
        The spec.
    """
    implied = class_counts(shapes, entry.free) or likely_counts(shapes, entry.free)
    usual = model_defaults(entry.source)
    channels = implied.get("channels", usual.input[0])
    classes = 0 if entry.headless else implied.get("classes")
    return ModelSpec(entry.source, one_image(size or (channels, *usual.input[1:])), classes)


def _fingerprint(words: Iterable[str]) -> str:
    return blake2b("\n".join(sorted(words)).encode(), digest_size=6).hexdigest()


def names_fingerprint(shapes: Shapes) -> str:
    """Return the fingerprint of the tensor names alone."""
    return _fingerprint(_names(shapes))


def _names(shapes: Shapes) -> list[str]:
    return [name for name in shapes if not name.endswith(COUNTER)]


def _shape_words(shapes: Shapes, free: tuple[FreeDim, ...]) -> list[str]:
    open_dims = {(dim.tensor, dim.dim) for dim in free}
    return [
        f"{name} {'x'.join('*' if (name, dim) in open_dims else str(size) for dim, size in enumerate(shapes[name]))}"
        for name in _names(shapes)
    ]


def sketches(shapes: Shapes, free: tuple[FreeDim, ...] = ()) -> tuple[Sketch, Sketch]:
    """Sketch the names, and the names with shapes.

    Args:
        shapes: The shapes of the tensors.
        free: The dimensions that are left open.

    Returns:
        Both sketches.
    """
    return _sketch(_names(shapes)), _sketch(_shape_words(shapes, free))


def _sketch(words: Iterable[str]) -> Sketch:
    hashes = {int.from_bytes(blake2b(word.encode(), digest_size=2).digest()) for word in words}
    return tuple(sorted(hashes)[:SKETCH_SIZE])


def overlap(a: Sketch, b: Sketch) -> float:
    """Estimate the resemblance |A and B| / |A or B| of two sets from their bottom-k sketches.

    Broder, On the resemblance and containment of documents, 1997.

    Args:
        a: The sketch of A.
        b: The sketch of B.

    Returns:
        A number from 0 to 1.
    """
    smallest = sorted(set(a) | set(b))[:SKETCH_SIZE]
    return len(set(smallest) & set(a) & set(b)) / max(len(smallest), 1)


def fingerprint(source: str) -> list[Fingerprint]:
    """Build an architecture on the meta device and describe it."""
    usual = model_defaults(source)
    entries: list[Fingerprint] = []
    for headless in (False, True) if usual.num_classes == 0 else (False,):
        shapes, free = probe_free_dims(source, usual.input[1:], headless=headless)
        names = names_fingerprint(shapes)
        if names not in [entry.names for entry in entries]:  # some never have a classifier
            fingerprint_shapes = _fingerprint(_shape_words(shapes, free))
            entries.append(Fingerprint(source, headless, names, fingerprint_shapes, *sketches(shapes, free), free))
    return entries


def all_sources() -> Iterator[str]:
    """Yield every architecture, the preferred one of two equal ones first; shorter names come first in a family."""
    for family in named_families():
        yield from (f"{family.prefix}:{name}" for name in sorted(family.names(), key=lambda name: (len(name), name)))


def libraries() -> tuple[str, ...]:
    """Return the packages whose versions decide which architectures there are."""
    return tuple(family.library for family in named_families() if family.library is not None)


def write_fingerprints(entries: Iterable[Fingerprint], versions: Mapping[str, str], path: Path = FILE) -> None:
    """Write the index. Sketches and free dimensions that several architectures share are written once.

    Args:
        entries: The fingerprints.
        versions: Library -> version that the fingerprints were made with.
        path: The file.
    """
    shared: dict[str, int] = {}

    def _number(value: object) -> int:
        return shared.setdefault(json.dumps(value, separators=(",", ":")), len(shared))

    rows = [
        [
            entry.source,
            int(entry.headless),
            _number([entry.names, *_steps(entry.names_sketch)]),
            _number([entry.shapes, *_steps(entry.shapes_sketch)]),
            _number([[free.tensor, free.dim, free.follows, free.factor, free.offset] for free in entry.free]),
        ]
        for entry in entries
    ]
    content = {
        "versions": dict(versions),
        "shared": [json.loads(text) for text in shared],
        "entries": rows,
    }
    text = json.dumps(content, separators=(",", ":")).encode()
    path.write_bytes(gzip.compress(text, compresslevel=9, mtime=0))


def _steps(sketch: Sketch) -> list[int]:
    """Return the differences of neighbours: small numbers, which compress well."""
    return [high - low for low, high in zip((0, *sketch), sketch, strict=False)]


def _sums(steps: list[int]) -> Sketch:
    total, sketch = 0, []
    for step in steps:
        total += step
        sketch.append(total)
    return tuple(sketch)


@cache
def read_fingerprints() -> tuple[Fingerprint, ...]:
    """Return the shipped index, in the order of `all_sources`."""
    content = json.loads(gzip.decompress(FILE.read_bytes()))
    shared = content["shared"]
    entries = []
    for source, headless, names, shapes, free in content["entries"]:
        (names_hash, *names_steps), (shapes_hash, *shapes_steps) = shared[names], shared[shapes]
        dims = tuple(FreeDim(*fields) for fields in shared[free])
        entries.append(
            Fingerprint(source, bool(headless), names_hash, shapes_hash, _sums(names_steps), _sums(shapes_steps), dims)
        )
    return tuple(entries)


def library_versions() -> dict[str, str]:
    """Return the library versions that the shipped index was made with."""
    versions: dict[str, str] = json.loads(gzip.decompress(FILE.read_bytes()))["versions"]
    return versions


def rebuild_fingerprints(prefixes: Collection[str], path: Path = FILE) -> None:
    """Build the architectures of some families, keep the shipped fingerprints of others, and write the index.

    Architectures that cannot be built are printed.

    Args:
        prefixes: The families' prefixes; none = all families.
        path: The file.
    """
    chosen = {family.prefix: family for family in named_families() if not prefixes or family.prefix in prefixes}
    shipped: dict[str, list[Fingerprint]] = {}
    for entry in read_fingerprints():
        shipped.setdefault(entry.source, []).append(entry)
    entries: list[Fingerprint] = []
    for source in all_sources():
        try:
            entries += fingerprint(source) if source.partition(":")[0] in chosen else shipped.get(source, [])
        except ModelError as error:
            print(error, file=sys.stderr)
    rebuilt = {family.library for family in chosen.values()}
    versions = {name: version(name) if name in rebuilt else library_versions()[name] for name in libraries()}
    write_fingerprints(entries, versions, path)
    print(f"{len(entries)} architectures, {path.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    rebuild_fingerprints(sys.argv[1:])
