"""Loads a user's own network: `path/to/file.py:factory`, with the weights of a checkpoint where one is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from compressor.core import LoadedModel, ModelSpec
from compressor.errors import ModelError
from compressor.execution.randomness import equal_randomness
from compressor.models.checkpoints.adapters import refuse_adapters
from compressor.models.checkpoints.checkpoint import read_checkpoint
from compressor.models.families.base import LoadSettings
from compressor.models.identification.identify import mismatch
from compressor.models.identification.nearest import MAX_PARTS_COMPARED
from compressor.models.identification.shape_match import compare_shapes, shapes_of, under_prefix
from compressor.models.identification.subtree import Subtree, subtrees_named, without_extra
from compressor.models.inputs.user_inputs import find_inputs
from compressor.models.preparation.prepare import prepare_module
from compressor.models.user_modules import user_module
from compressor.models.user_modules.faithful import checked_copies


def load_code(source: str, settings: LoadSettings, *, trust_pickle: bool) -> LoadedModel:
    """Build a user's network and load its weights.

    Args:
        source: `path/to/file.py:factory`, or `path/to/file.py:factory@checkpoint`.
        settings: What the user sets. Classes are an argument of the factory, if it takes `num_classes`; without shapes,
            the file shows the inputs, or usual sizes are tried.
        trust_pickle: Whether a pickle may run code.

    Returns:
        The model in float32 and eval mode.

    Raises:
        ModelError: The code failed, no usual input runs, or the checkpoint does not fit the network.
        UntrustedFile: Reading the checkpoint would run code.
    """
    path, factory, checkpoint_path = user_module.split_code(source)
    base = f"{path.resolve()}:{factory}"
    checkpoint = None
    if checkpoint_path is not None:
        checkpoint = read_checkpoint(checkpoint_path, trust_pickle=trust_pickle, weights=settings.weights)
    saved = checkpoint.hyper_parameters if checkpoint else {}
    with equal_randomness():
        maker = user_module.import_factory(base)
        arguments = user_module.constructor_arguments(maker, saved)
        module = user_module.build_module(maker, settings.num_classes, arguments)
    digest: str | None = None
    notes: tuple[str, ...] = ("weights as the factory returns them",)
    prepared: tuple[str, ...] = ()
    if checkpoint is not None and checkpoint_path is not None:
        module, part, prepared = _fitted(module, checkpoint.tensors, checkpoint_path, f"{path.name}:{factory}")
        module.load_state_dict({**module.state_dict(), **part.tensors})
        used = (f"built with the saved hyper-parameters {', '.join(arguments)}",) if arguments else ()
        digest, notes = checkpoint.sha256, (*checkpoint.notes, *used, *part.notes)
    module, changes = prepare_module(module)
    with equal_randomness():
        inputs, note = find_inputs(base, module, settings.shapes, settings.batch_dim, settings.samples)
    spec = ModelSpec(base, inputs, settings.num_classes, arguments)
    notes = (*notes, *prepared, *changes, *([note] if note else []))
    return checked_copies(LoadedModel(module, spec, source, sha256=digest, notes=notes))


def _fitted(
    module: nn.Module, tensors: Mapping[str, Tensor], where: str, what: str
) -> tuple[nn.Module, Subtree, tuple[str, ...]]:
    """Match a state dict from before or after weights were folded; return the module, the part and notes."""
    try:
        return module, _part_for(module, tensors, where, what), ()
    except ModelError as error:
        module, notes = prepare_module(module)
        try:
            return module, _part_for(module, tensors, where, what), notes
        except ModelError:
            raise error from None


def _part_for(module: nn.Module, tensors: Mapping[str, Tensor], where: str, what: str) -> Subtree:
    """Find the part of a state dict that fits the module. Raises ModelError with the nearest part's differences."""
    expected = shapes_of(module)
    roots = {name.partition(".")[0] for name in expected}
    inner = [name.partition(".")[2] for name in expected] if len(roots) == 1 else []
    parts, fits = [], []
    for part in subtrees_named(tensors, [*expected, *inner])[:MAX_PARTS_COMPARED]:
        parts.append(replace(part, tensors=under_prefix(part.tensors, expected)))
        fits.append(compare_shapes(shapes_of(parts[-1].tensors), expected))
        if fits[-1].ok:
            return parts[-1]
    refuse_adapters(tensors, where)
    for part, fit in zip(parts, fits, strict=True):
        if fitting := without_extra(part, fit, expected):
            return fitting
    raise mismatch(where, what, min(fits, key=lambda fit: fit.distance))
