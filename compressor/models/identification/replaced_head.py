"""Detects, by its shape, a last layer that was replaced for other classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from compressor.models.identification.fingerprints import Fingerprint, spec_of
from compressor.models.identification.shape_match import ShapeMatch, expected_shapes, shapes_of
from compressor.models.identification.subtree import Subtree, foreign, is_beside


def with_replaced_head(part: Subtree, fit: ShapeMatch, entry: Fingerprint, head: str | None) -> Subtree | None:
    """Rename the layer that replaced the classifier to the classifier's name.

    Args:
        part: A state dict that fits an architecture except for its last layer.
        fit: The differences from the architecture.
        entry: The architecture.
        head: The module that is the new last layer; None takes the only one of the right shape.

    Returns:
        The renamed part. None if more than the last layer differs, if no single layer has its shape, or if the head
        has several layers: a checkpoint does not say what is computed between them.
    """
    of_classes = [dim for dim in entry.free if dim.follows == "classes" and (dim.factor, dim.offset) == (1, 0)]
    wide = {dim.tensor: dim.dim for dim in of_classes}
    owners = {name.rpartition(".")[0] for name in wide}
    if len(owners) != 1 or not set(fit.missing) <= set(wide) or not fit.missing or fit.reshaped:
        return None
    (owner,) = owners
    expected = expected_shapes(spec_of(entry, shapes_of(part.tensors), None))
    extra = {name: part.tensors[name] for name in fit.extra}
    available = {**extra, **{name: part.outside[name] for name in part.outside if not is_beside(name)}}
    ends = {name.rpartition(".")[2] for name in wide}

    modules = dict.fromkeys(name.rpartition(".")[0] for name in available if name.rpartition(".")[2] in ends)
    usual = {end: _open(expected[f"{owner}.{end}"], wide[f"{owner}.{end}"]) for end in ends}
    heads = [module for module in modules if _fits(module, usual, available)]
    if head is not None:
        heads = [module for module in heads if module == head or module.endswith(f".{head}")]
    if len(heads) != 1:
        return None
    (new,) = heads
    taken = {f"{new}.{end}" for end in ends}
    if head is None and (set(extra) - taken or set(foreign(part)) - taken):
        return None
    inside = {name: tensor for name, tensor in part.tensors.items() if name not in extra}
    inside |= {f"{owner}.{end}": available[f"{new}.{end}"] for end in ends}
    left = {name: tensor for name, tensor in {**extra, **part.outside}.items() if name not in taken}
    note = f"took {new} for the last layer {owner}, by its shape"
    return replace(part, tensors=inside, outside=left, renamed=(*part.renamed, note))


def _open(shape: tuple[int, ...], dim: int) -> tuple[int | None, ...]:
    return tuple(None if place == dim else size for place, size in enumerate(shape))


def _fits(module: str, usual: Mapping[str, tuple[int | None, ...]], tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a module has these parameters, in these shapes where they are not None."""
    return all(
        f"{module}.{end}" in tensors
        and len(shape) == tensors[f"{module}.{end}"].ndim
        and all(size in (None, own) for size, own in zip(shape, tensors[f"{module}.{end}"].shape, strict=True))
        for end, shape in usual.items()
    )
