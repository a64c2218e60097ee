"""Finds the part of a state dict that is the model. Training saves it under any prefix, with other tensors beside it.

Prefixes are levels of a tree. The model is a subtree, which the expected names identify.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from compressor.listed import listed
from compressor.models.checkpoints.select_weights import is_averaged, of_training
from compressor.models.identification.shape_match import ShapeMatch

_BODY, _HEAD = "backbone", ("head", "neck", "cls_head")  # of OpenMMLab's models, with the layers' usual names inside
SMALLEST_PART = 8  # tensors; less is a layer rather than a model


@dataclass(frozen=True, slots=True)
class Subtree:
    """The tensors under a prefix, named without it, and those outside, under their own names."""

    prefix: str
    tensors: Mapping[str, Tensor]
    outside: Mapping[str, Tensor] = field(default_factory=dict)
    renamed: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        peeled = (f"peeled the prefix {self.prefix!r}",) if self.prefix else ()
        if not self.outside:
            return (*peeled, *self.renamed)
        names = list(self.outside)
        tensors = "1 tensor" if len(names) == 1 else f"{len(names)} tensors"
        return (*peeled, *self.renamed, f"left out {tensors} beside the model: {listed(names, 3)}")


def subtree(tensors: Mapping[str, Tensor], prefix: str) -> Subtree:
    """Split a state dict at one prefix.

    Args:
        tensors: The state dict.
        prefix: The prefix; it ends in a dot or is empty.

    Returns:
        The part under the prefix.
    """
    if not prefix:
        return Subtree("", tensors)
    inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    outside = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    return Subtree(prefix, inside, outside)


def subtrees(tensors: Mapping[str, Tensor], smallest: int = SMALLEST_PART) -> Iterator[Subtree]:
    """Yield the full state dict, then its parts, the largest first; averages and losses come last.

    A body and its head, which OpenMMLab saves as two modules, are joined after the part that holds both.

    Args:
        tensors: The state dict.
        smallest: The least number of tensors of a part.

    Returns:
        The parts.
    """
    sizes = Counter(name[: place + 1] for name in tensors for place, letter in enumerate(name) if letter == ".")
    prefixes = [prefix for prefix, size in sizes.items() if size >= smallest]
    for prefix in ["", *sorted(prefixes, key=lambda prefix: (is_beside(prefix), -sizes[prefix], len(prefix)))]:
        part = subtree(tensors, prefix)
        yield part
        joined = _body_and_head(part)
        if joined is not None:
            yield joined


def _body_and_head(part: Subtree) -> Subtree | None:
    roots = {name.partition(".")[0] for name in part.tensors}
    if _BODY not in roots or roots.isdisjoint(_HEAD):
        return None
    split = {name: name.partition(".") for name in part.tensors}
    inside = {rest: part.tensors[name] for name, (root, _, rest) in split.items() if root in (_BODY, *_HEAD)}
    beside = {
        part.prefix + name: part.tensors[name] for name, (root, *_) in split.items() if root not in (_BODY, *_HEAD)
    }
    together = f"put {', '.join(repr(f'{root}.') for root in (_BODY, *_HEAD) if root in roots)} together"
    return Subtree(part.prefix, inside, {**part.outside, **beside}, (together,))


def subtrees_named(tensors: Mapping[str, Tensor], names: Iterable[str]) -> list[Subtree]:
    """Find the parts that have tensors of the given names.

    Args:
        tensors: The state dict.
        names: The names without a prefix.

    Returns:
        The parts, the one with most of the names first; averages come last among equals.
    """
    wanted = frozenset(names)
    votes: Counter[str] = Counter()
    for name in tensors:
        places = [0, *(place + 1 for place, letter in enumerate(name) if letter == ".")]
        votes.update(name[:place] for place in places if name[place:] in wanted)
    ordered = sorted(votes, key=lambda prefix: (-votes[prefix], is_beside(prefix), len(prefix)))
    parts = [subtree(tensors, prefix) for prefix in ordered]
    above = [prefix.removesuffix(f"{_BODY}.") for prefix in ordered if f".{prefix}".endswith(f".{_BODY}.")]
    joined = [_body_and_head(subtree(tensors, prefix)) for prefix in above]
    return [part for part in joined if part is not None] + parts or [subtree(tensors, "")]


def without_extra(part: Subtree, fit: ShapeMatch, expected: Iterable[str]) -> Subtree | None:
    """Leave out tensors of modules that a network does not have, such as a projection that only training uses.

    Args:
        part: A state dict.
        fit: Its differences from the network.
        expected: The names of the network's own tensors.

    Returns:
        The part without the extra tensors. None if it has another difference, if an extra tensor lies in a module that
        the network has, or if there are more than half as many as the network has: then it is another network.
    """
    roots = {name.partition(".")[0] for name in expected}
    inside = {name: tensor for name, tensor in part.tensors.items() if name not in fit.extra}
    is_other = 2 * len(fit.extra) > len(inside) or any(name.partition(".")[0] in roots for name in fit.extra)
    if fit.missing or fit.reshaped or is_other:
        return None
    extra = {part.prefix + name: part.tensors[name] for name in fit.extra}
    return replace(part, tensors=inside, outside={**part.outside, **extra})


def foreign(part: Subtree) -> list[str]:
    """Return the tensors outside a part that are neither of training nor of another copy of the part."""
    copies = tuple(copies_of(part))
    return [name for name in part.outside if not name.startswith(copies) and not is_beside(name)]


def is_beside(prefix: str) -> bool:
    """Return whether a prefix names a loss, an average of the weights or a teacher, saved beside the model."""
    return any(of_training(word) or is_averaged(word) for word in prefix.split("."))


def copies_of(part: Subtree) -> list[str]:
    """Return the prefixes outside a part that hold tensors of the same names and shapes."""
    end = next(iter(part.tensors), "")
    prefixes = [name.removesuffix(end) for name in part.outside if end and name.endswith(f".{end}")]
    shapes = {name: tensor.shape for name, tensor in part.tensors.items()}
    return [
        prefix
        for prefix in prefixes
        if all(prefix + name in part.outside and part.outside[prefix + name].shape == shapes[name] for name in shapes)
    ]
