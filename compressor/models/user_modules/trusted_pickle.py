"""A whole module in a pickle that the user trusts: only the pickle itself builds it, in a run and when it is loaded."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from compressor.core import ModelInput, ModelSpec
from compressor.errors import ModelError
from compressor.file_digest import sha256
from compressor.models.build import PICKLE
from compressor.models.checkpoints.checkpoint import LoadedCheckpoint, read_checkpoint
from compressor.models.families.base import LoadSettings
from compressor.models.identification.identify import IdentifiedModel
from compressor.models.inputs.batch_dims import with_batch_dim
from compressor.models.inputs.user_inputs import inputs_that_run, named_in
from compressor.models.preparation.prepare import prepare_module, refuse_opaque
from compressor.models.preparation.signature import select_outputs

SHA256 = "sha256"
"""The key of `ModelSpec.arguments` that holds the SHA-256 of the pickle."""


def pickled_module(checkpoint: LoadedCheckpoint, source: str, settings: LoadSettings) -> IdentifiedModel:
    """Take the module of a trusted pickle, which no known architecture fits.

    Args:
        checkpoint: The checkpoint, with its module.
        source: The file.
        settings: What the user sets.

    Returns:
        The module, prepared, and how to build it again.

    Raises:
        ModelError: The module cannot be analyzed, or runs on no usual input.
    """
    assert checkpoint.module is not None, source
    refuse_opaque(checkpoint.module, source)
    module, prepared = prepare_module(checkpoint.module.float())
    notes = ("architecture taken from the trusted pickle itself", *prepared)
    if settings.shapes is None:
        inputs, note = inputs_that_run(module, source, settings.samples)
        notes = (*notes, f"{note}; set model.input to change it")
    else:
        shaped = with_batch_dim([ModelInput(shape) for shape in settings.shapes], settings.batch_dim)
        inputs = named_in(shaped, module)
    path = Path(source).resolve()
    spec = ModelSpec(f"{PICKLE}{path}", inputs, settings.num_classes, {SHA256: checkpoint.sha256})
    return IdentifiedModel(module, spec, notes)


def rebuild_pickled(spec: ModelSpec) -> nn.Module:
    """Build the architecture of a whole pickled module again, by running the pickle.

    Args:
        spec: Of `pickled_module`.

    Returns:
        The dense module, prepared.

    Raises:
        ModelError: The file is missing, cannot be read, or is not the one that was compressed.
    """
    path = Path(spec.source.removeprefix(PICKLE))
    expected = spec.arguments.get(SHA256)
    if path.is_file() and expected not in (None, sha256(path)):  # before its code runs
        problem = "it is not the file that was compressed: its SHA-256 differs"
        raise ModelError("model-file/hash-differs", str(path), problem, "restore it, or give the dense module itself")
    module = read_checkpoint(path, trust_pickle=True).module
    if module is None:
        problem = "it holds no whole module"
        raise ModelError("model/whole-pickled-module", str(path), problem, "give the dense module itself")
    return select_outputs(prepare_module(module.float())[0].eval(), spec.outputs)
