"""Chooses among architectures that all fit a state dict: by what they compute, and by the name in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from compressor.core import ModelSpec, one_image
from compressor.errors import ModelError
from compressor.execution.differences import is_close
from compressor.models.build import build_named, weights_to_come
from compressor.models.identification.shape_match import (
    COUNTER,
)

SAME_OUTPUT = 1e-4  # of the largest output; epsilons of normalization layers differ between libraries


def load_weights(spec: ModelSpec, tensors: Mapping[str, Tensor]) -> tuple[nn.Module, tuple[str, ...]]:
    """Build an architecture and load tensors that are known to fit.

    Args:
        spec: The architecture.
        tensors: The state dict; batch counters may be missing.

    Returns:
        The module and notes.
    """
    with weights_to_come(spec.source):
        module = build_named(spec).float()
    state = module.state_dict()  # updated rather than replaced: it carries versions that some layers ask for
    absent = state.keys() - tensors.keys()
    state.update(tensors)
    module.load_state_dict(state)
    return module, ((f"no {COUNTER} in the checkpoint, taken as 0",) if absent else ())


def choose_fitting(
    specs: list[ModelSpec], tensors: Mapping[str, Tensor], where: str, hint: str | None
) -> tuple[nn.Module, ModelSpec, tuple[str, ...]]:
    """Choose among architectures that fit: the one the file names, or the first if all or two libraries agree.

    Args:
        specs: The architectures, the preferred one first.
        tensors: The state dict.
        where: The file that the message names.
        hint: The architecture's name in the file.

    Returns:
        The module with its weights, its architecture, and notes.

    Raises:
        ModelError: Several fit that compute different outputs.
    """
    for spec in specs:
        if len(specs) > 1 and hint is not None and spec.source.partition(":")[2] == hint:
            module, notes = load_weights(spec, tensors)
            return module, spec, (*notes, f"chosen among several because the file says arch = {hint}")
    first, *rest = specs
    module, notes = load_weights(first, tensors)
    image = torch.randn(1, *first.input, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = module(image) if rest else None
    alike: list[ModelSpec] = []
    for spec in rest:
        if not _agreed(first, alike) and _same(output, image, spec, tensors):
            alike.append(spec)
    others = [spec for spec in rest if spec not in alike]
    if alike:
        notes = (*notes, f"{_sources(alike)} would do as well: the same tensors, the same outputs")
    if others and not _agreed(first, alike):
        raise ModelError(
            "checkpoint/ambiguous-architecture",
            where,
            f"its tensors fit {_sources(specs)}, which compute different outputs",
            f"choose one as model.arch, for example by --set model.arch={first.source} of a run or of compress plan",
        )
    if others:
        notes = (*notes, f"{_sources(others)} fit too but are variants: name one with model.arch if it is that")
    return module, first, notes


def _agreed(first: ModelSpec, alike: list[ModelSpec]) -> bool:
    """Return whether another library has the same network: it is then the usual one, and the rest are variants."""
    return any(spec.source.partition(":")[0] != first.source.partition(":")[0] for spec in alike)


def _sources(specs: list[ModelSpec]) -> str:
    return ", ".join(spec.source for spec in specs)


def _same(output: object, image: Tensor, spec: ModelSpec, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether another architecture with the same weights computes the same output."""
    try:
        other, _ = load_weights(
            replace(spec, inputs=one_image((image.shape[1], image.shape[2], image.shape[3]))), tensors
        )
        with torch.no_grad():
            answer = other(image)
    except Exception:  # an architecture that can't take this image is another one
        return False
    return isinstance(output, Tensor) and isinstance(answer, Tensor) and is_close(answer, output, SAME_OUTPUT)
