"""Identifies the architecture of a state dict by names and shapes, and by outputs if several architectures fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from compressor.core import ImageSize, ModelSpec, one_image
from compressor.errors import ModelError
from compressor.listed import listed
from compressor.models.build import named_architecture
from compressor.models.checkpoints.adapters import refuse_adapters
from compressor.models.families import named_families
from compressor.models.identification import fingerprints as index
from compressor.models.identification.fingerprints import spec_of
from compressor.models.identification.fitting_architectures import choose_fitting, load_weights
from compressor.models.identification.nearest import nearest, unknown_architecture
from compressor.models.identification.replaced_head import with_replaced_head
from compressor.models.identification.shape_match import (
    ShapeMatch,
    Shapes,
    class_counts,
    compare_shapes,
    expected_or_nothing,
    expected_shapes,
    shapes_of,
)
from compressor.models.identification.subtree import (
    Subtree,
    copies_of,
    foreign,
    subtrees,
    subtrees_named,
    without_extra,
)

MAX_CANDIDATES = 12
MAX_NAMED_PARTS = 3  # of a state dict that a named architecture is built for

_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.", "aux_classifier.")
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


@dataclass(frozen=True, slots=True)
class IdentifiedModel:
    """The architecture with its weights loaded."""

    module: nn.Module
    spec: ModelSpec
    notes: tuple[str, ...]


def identify_architecture(
    tensors: Mapping[str, Tensor],
    where: str,
    *,
    num_classes: int | None,
    size: ImageSize | None,
    hint: str | None = None,
    head: str | None = None,
) -> IdentifiedModel:
    """Find the architecture of a state dict, or of the part of it that is the model, and load the weights.

    Args:
        tensors: The state dict, under any prefix and with other tensors beside it.
        where: The file that the message names.
        num_classes: The required number of classes; None accepts any.
        size: Channels, height and width of the input; None takes the architecture's own.
        hint: The architecture's name in the file; used only if several fit.
        head: The module that replaces the last layer; None finds it by its shape.

    Returns:
        The model with its weights.

    Raises:
        ModelError: No architecture fits, or several fit that compute different outputs.
    """
    for part in subtrees(tensors):
        for variant, change in _variants(part.tensors):
            specs = _fingerprinted(variant, size)
            if specs:
                _refuse_foreign(part, specs[0], where)
                notes = (*part.notes, *_copy_notes(part), *change)
                return _identified(specs, variant, notes, where, num_classes, hint)
    near = nearest(tensors, size)
    for candidate in near:
        if candidate.fit.ok:  # at the input size the user gave, not at the default
            specs = [other.spec for other in near if other.fit.ok]
            return _identified(specs, candidate.part.tensors, candidate.part.notes, where, num_classes, hint)
    for candidate in near:
        replaced = with_replaced_head(candidate.part, candidate.fit, candidate.entry, head)
        specs = _fingerprinted(replaced.tensors, size) if replaced else []
        if replaced and specs:
            return _identified(specs, replaced.tensors, replaced.notes, where, num_classes, hint)
    if head is not None:
        raise ModelError(
            "checkpoint/head-does-not-fit",
            where,
            f"model.head is {head}, which does not fit in place of the last layer of {near[0].spec.source}",
            "name one linear layer; a head of several layers needs your code: path/to/net.py:factory@checkpoint",
        )
    raise unknown_architecture(tensors, where, near)


def _refuse_foreign(part: Subtree, spec: ModelSpec, where: str) -> None:
    """Refuse a part that has another network of about its size beside it."""
    others = foreign(part)
    if 2 * len(others) <= len(part.tensors):
        return
    prefix = part.prefix.rstrip(".")
    problem = f"{prefix!r} holds {spec.source}, beside {len(others)} tensors of other networks ({listed(others, 3)})"
    hint = (
        f"take this part alone with --set model.weights={prefix}, or give your code: path/to/net.py:factory@checkpoint"
    )
    raise ModelError("checkpoint/part-of-larger-model", where, problem, hint)


def _copy_notes(part: Subtree) -> tuple[str, ...]:
    copies = [prefix.rstrip(".") for prefix in copies_of(part)]
    if not copies:
        return ()
    return (f"{', '.join(copies)} holds another copy of the weights: model.weights={copies[0]} takes it",)


def _identified(
    specs: list[ModelSpec],
    tensors: Mapping[str, Tensor],
    change: tuple[str, ...],
    where: str,
    num_classes: int | None,
    hint: str | None,
) -> IdentifiedModel:
    module, spec, notes = choose_fitting(specs, tensors, where, hint)
    if num_classes is not None and spec.num_classes != num_classes:
        problem = f"its last layer has {spec.num_classes} classes, but model.num_classes is {num_classes}"
        raise ModelError("checkpoint/class-count-differs", where, problem, "set model.num_classes to auto")
    return IdentifiedModel(module, spec, (*change, f"recognized as {spec.source}", *notes))


def load_named(
    tensors: Mapping[str, Tensor],
    where: str,
    *,
    arch: str,
    num_classes: int | None,
    size: ImageSize | None,
    head: str | None = None,
) -> IdentifiedModel:
    """Load the weights into an architecture named by the user, from the part of a state dict that fits it.

    Args:
        tensors: The state dict, under any prefix and with other tensors beside it.
        where: The file that the message names.
        arch: The architecture, such as `timm:resnet26d`.
        num_classes: Classes of the last layer; None takes what the tensors imply.
        size: Channels, height and width of the input; None takes the architecture's own.
        head: The module that replaces the last layer; None finds it by its shape.

    Returns:
        The model with its weights.

    Raises:
        ModelError: No part fits; the message names the missing and unexpected tensors of the nearest part.
    """

    def _loaded(part: Subtree, spec: ModelSpec, change: tuple[str, ...]) -> IdentifiedModel:
        module, notes = load_weights(spec, part.tensors)
        return IdentifiedModel(module, spec, (*part.notes, *change, *notes))

    usual = expected_shapes(_spec_for(arch, {}, num_classes, size))
    tried: list[tuple[Subtree, ShapeMatch, ModelSpec, tuple[str, ...]]] = []
    for renamed, change in _variants(tensors):
        for part in subtrees_named(renamed, usual)[:MAX_NAMED_PARTS]:
            spec = _spec_for(arch, shapes_of(part.tensors), num_classes, size)
            fit = compare_shapes(shapes_of(part.tensors), expected_shapes(spec))
            entries = [entry for entry in index.read_fingerprints() if entry.source == arch.partition(".")[0]]
            if not fit.ok and entries:
                part = with_replaced_head(part, fit, entries[0], head) or part
                spec = _spec_for(arch, shapes_of(part.tensors), num_classes, size)
                fit = compare_shapes(shapes_of(part.tensors), expected_shapes(spec))
            if fit.ok:
                return _loaded(part, spec, change)
            tried.append((part, fit, spec, change))
    refuse_adapters(tensors, where)
    for part, fit, spec, change in tried:
        if fitting := without_extra(part, fit, usual):
            return _loaded(fitting, spec, change)
    _, fit, spec, _ = tried[0]
    raise mismatch(where, f"{arch} with {spec.num_classes or 'its own'} classes", fit)


def mismatch(where: str, what: str, fit: ShapeMatch) -> ModelError:
    """Describe tensors that do not fit an architecture.

    Args:
        where: The file that the message names.
        what: The architecture.
        fit: The differences.

    Returns:
        The error.
    """
    problem = f"its tensors are not those of {what}: {fit}"
    return ModelError(
        "checkpoint/tensors-differ",
        where,
        problem,
        "give the complete state dict, or the architecture that it belongs to",
    )


def _variants(tensors: Mapping[str, Tensor]) -> Iterator[tuple[Mapping[str, Tensor], tuple[str, ...]]]:
    """Yield the tensors unchanged, then as older library versions and other publishers name them."""
    yield tensors, ()
    plain = {name: value for name, value in tensors.items() if not name.startswith(_AUXILIARY)}
    if len(plain) < len(tensors):
        yield plain, (f"left out {len(tensors) - len(plain)} tensors of auxiliary heads, which only training uses",)
    dense = {_OLD_DENSENET.sub(r"\1\2.", name): value for name, value in tensors.items()}
    if dense.keys() != tensors.keys():
        yield dense, ("renamed norm.1 to norm1 and so on, as in newer DenseNets",)
    if "fc.weight" in tensors and "layer3.0.conv1.weight" in tensors and "layer4.0.conv1.weight" not in tensors:
        renamed = {
            name.replace("fc.", "linear.").replace(".downsample.", ".shortcut."): value
            for name, value in tensors.items()
        }
        yield renamed, ("renamed fc to linear and downsample to shortcut",)


def _fingerprinted(tensors: Mapping[str, Tensor], size: ImageSize | None) -> list[ModelSpec]:
    """Return the architectures that every tensor fits, the preferred one first."""
    shapes = shapes_of(tensors)
    implied = (spec for family in named_families() for spec in family.specs_from_shapes(shapes, size))
    specs = [spec for spec in implied if compare_shapes(shapes, expected_shapes(spec)).ok]
    if specs:
        return specs
    names = index.names_fingerprint(shapes)
    entries = [entry for entry in index.read_fingerprints() if entry.names == names and entry.fits(shapes)]
    specs = [spec_of(entry, shapes, size) for entry in entries[:MAX_CANDIDATES]]
    return [spec for spec in specs if compare_shapes(shapes, expected_or_nothing(spec)).ok]


def _spec_for(arch: str, shapes: Shapes, num_classes: int | None, size: ImageSize | None) -> ModelSpec:
    """Size an architecture that the user named: as the user says, else as the tensors imply, else as its default."""
    family, name = named_architecture(arch)
    usual = family.defaults(name)
    implied_specs = family.specs_from_shapes(shapes, size)
    entries = [entry for entry in index.read_fingerprints() if entry.source == arch.partition(".")[0]]
    implied: dict[str, int] = {}
    if implied_specs:
        implied = {"classes": implied_specs[0].num_classes or 0, "channels": implied_specs[0].input[0]}
    for entry in entries:
        implied = implied or class_counts(shapes, entry.free) or {}
    classes = num_classes if num_classes is not None else implied.get("classes")
    return ModelSpec(arch, one_image(size or (implied.get("channels", usual.input[0]), *usual.input[1:])), classes)
