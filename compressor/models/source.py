"""Loads the model that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from compressor.core import ImageSize, LoadedModel, ModelSpec, one_image
from compressor.errors import ModelError
from compressor.execution.randomness import SEED, equal_randomness
from compressor.models.build import build_named, can_rebuild, model_defaults, named_architecture, split_name
from compressor.models.checkpoints.checkpoint import LoadedCheckpoint, read_checkpoint
from compressor.models.families import families, family_of
from compressor.models.families.base import FileFamily, LoadSettings
from compressor.models.families.onnx_files import is_onnx
from compressor.models.hugging_face.transformers_folder import INDEX, read_tensors, sha256_of_weights
from compressor.models.identification.identify import identify_architecture, load_named
from compressor.models.identification.nearest import UNKNOWN_ARCHITECTURE
from compressor.models.inputs.batch_dims import BatchDimSetting
from compressor.models.inputs.example_inputs import example_inputs
from compressor.models.inputs.user_inputs import InputShapes, ShowSamples, no_samples, shapes_in
from compressor.models.plan_record import PLAN
from compressor.models.preparation.signature import output_indices, select_outputs, without_selection
from compressor.models.saved_model import load_folder
from compressor.models.user_modules import user_module
from compressor.models.user_modules.faithful import checked_copies
from compressor.models.user_modules.load_code import load_code
from compressor.models.user_modules.trusted_pickle import pickled_module

WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def load_model(
    source: str,
    *,
    arch: str = "auto",
    num_classes: int | None = None,
    input: Sequence[int] | Sequence[Sequence[int]] | None = None,
    batch_dim: BatchDimSetting = "auto",
    trust_pickle: bool = False,
    weights: str | None = None,
    head: str | None = None,
    outputs: Sequence[int | str] | None = None,
    samples: ShowSamples = no_samples,
) -> LoadedModel:
    """Load a name such as `timm:resnet26d`, a file.py:factory, a checkpoint, a library's folder, or an output folder.

    Args:
        source: The model as the user names it.
        arch: The architecture of a checkpoint, or `auto`.
        num_classes: Classes of the last layer; None takes those of the weights.
        input: The shape of one input without the batch, (channels, height, width) for images, or one shape for each
            of several inputs.
        batch_dim: The batch dimension of a user's own inputs, or of each of them; None means they have none.
        trust_pickle: Whether a pickle may run code.
        weights: Key or prefix of the weights, if a checkpoint holds several.
        head: The module of a checkpoint that replaces the architecture's last layer.
        outputs: Output tensors that are used, by index or name; None uses all.
        samples: Reads two samples of the data: what a user's own network takes if nothing else says it.

    Returns:
        The model in float32 and eval mode.

    Raises:
        ModelError: The model is unknown, or a setting contradicts it.
        UntrustedFile: Reading the file would run code or exhaust the machine.
        VerificationFailed: A weight is not finite.
    """
    shapes = None if input is None else shapes_in(input)
    settings = LoadSettings(shapes, batch_dim, num_classes, weights, samples)
    loaded = _from_library(source, settings) or _from_rest(source, arch, settings, trust_pickle, head)
    return loaded if outputs is None else _with_outputs(loaded, outputs)


def _from_library(source: str, settings: LoadSettings) -> LoadedModel | None:
    """Load a library's own file or folder; None if the source is none."""
    if user_module.is_code(source) or (Path(source) / PLAN).is_file():
        return None
    family = family_of(source)
    if isinstance(family, FileFamily):
        return family.load(Path(source.removeprefix(f"{family.prefix}:")), source, settings)
    if family is not None:
        return None
    libraries = (family for family in families() if isinstance(family, FileFamily))
    claiming = next((family for family in libraries if family.claims(Path(source))), None)
    return None if claiming is None else claiming.load(Path(source), source, settings)


def _with_outputs(loaded: LoadedModel, outputs: Sequence[int | str]) -> LoadedModel:
    """Let a model return some of its outputs only."""
    module = without_selection(loaded.module)
    indices = output_indices(module, example_inputs(loaded), outputs, loaded.name)
    return replace(loaded, module=select_outputs(module, indices), spec=replace(loaded.spec, outputs=indices))


def _from_rest(source: str, arch: str, settings: LoadSettings, trust_pickle: bool, head: str | None) -> LoadedModel:
    """Load a name, a user's code, a checkpoint or an output folder, as `load_model` does."""
    if settings.weights is not None and not _is_checkpoint(source):
        raise ModelError(
            "model/not-a-checkpoint",
            source,
            f"model.weights is {settings.weights}",
            "set it to auto; it is for checkpoints only",
        )
    if user_module.is_code(source):
        loaded = load_code(source, settings, trust_pickle=trust_pickle)
    elif is_onnx(source):
        from compressor.models.onnx_import.load_onnx import load_onnx  # and with it ONNX Runtime

        loaded = load_onnx(Path(source), settings.shapes, settings.samples)
    elif family_of(source) is not None:
        loaded = _from_name(source, settings.num_classes, _image_size(settings.shapes, source))
    elif (Path(source) / PLAN).is_file():
        loaded = load_folder(source, trust_pickle=trust_pickle)
    elif not Path(source).exists() and Path(source).suffix == "" and "/" not in source:
        split_name(source)  # a bare word is an architecture without its family; this raises the error for it
        raise AssertionError("split_name accepts no bare words")
    else:
        path = _weights_in(Path(source)) if Path(source).is_dir() else source
        loaded = _from_checkpoint(path, arch, settings, trust_pickle, head)
        return replace(loaded, name=source)
    if arch not in ("auto", loaded.spec.source):
        problem = f"it is {loaded.spec.source}, but model.arch is {arch}"
        raise ModelError(
            "model/architecture-differs", source, problem, "set model.arch to auto: it applies to checkpoints only"
        )
    own = tuple(model_input.shape for model_input in loaded.spec.inputs)
    for key, requested, actual in (
        ("num_classes", settings.num_classes, loaded.spec.num_classes),
        ("input", settings.shapes, own),
    ):
        if requested not in (None, actual):
            problem = f"its {key} is {actual}, but model.{key} is {requested}"
            raise ModelError("model/setting-differs", source, problem, f"set model.{key} to auto, or to {actual}")
    return loaded


def resize_head(model: LoadedModel, num_classes: int | None) -> LoadedModel:
    """Rebuild a model with random weights for another number of classes.

    Args:
        model: The model.
        num_classes: The number of classes in the data; 0 or None if the targets are no classes.

    Returns:
        The new model; the model itself where its weights are trained or the number is the same.
    """
    if not model.untrained or not num_classes or num_classes == model.spec.num_classes:
        return model
    return load_model(model.name, num_classes=num_classes, input=model.spec.input)


def _is_checkpoint(source: str) -> bool:
    if user_module.is_code(source):
        return user_module.split_code(source)[2] is not None
    return family_of(source) is None and not (Path(source) / PLAN).is_file()


def _weights_in(folder: Path) -> str:
    """Return the only file of weights in a folder with the layout of Hugging Face libraries, or the index of shards."""
    if indices := sorted(folder.glob(f"*{INDEX}")):
        return str(indices[0])
    files = sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_FILES)
    preferred = [path for path in files if path.name == "model.safetensors"] or files
    if len(preferred) == 1:
        return str(preferred[0])
    if (folder / ".metadata").is_file():
        problem = "the folder is a checkpoint of torch.distributed.checkpoint"
        hint = "convert it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt"
        raise ModelError("model-file/distributed-checkpoint", str(folder), problem, hint)
    problem = (
        f"the folder has {len(files)} files of weights" if files else "the folder has neither plan.json nor weights"
    )
    hint = f"name one, such as {files[0]}" if files else "give a checkpoint, or a folder that compress wrote"
    raise ModelError("model-file/several-in-folder", str(folder), problem, hint)


def _from_name(source: str, num_classes: int | None, size: ImageSize | None) -> LoadedModel:
    base, _, weights = source.partition("@")
    family, name = named_architecture(base)
    usual = family.defaults(name)
    spec = ModelSpec(base, one_image(size or usual.input), usual.num_classes if num_classes is None else num_classes)
    mean, std = _normalization(spec)
    if not weights:
        with equal_randomness():
            module = build_named(spec)
        note = f"random weights (seed {SEED}): nothing was trained; add @WEIGHTS for published ones"
        return LoadedModel(module, spec, source, notes=(note,), mean=mean, std=std, untrained=True)
    published = family.published_weights(spec, name, weights, size)
    if isinstance(published, nn.Module):
        return LoadedModel(published.float().eval(), spec, source, mean=mean, std=std)
    loaded = load_named(published.tensors, source, arch=base, num_classes=published.num_classes, size=published.input)
    return LoadedModel(
        loaded.module,
        loaded.spec,
        source,
        sha256=published.sha256,
        notes=loaded.notes,
        mean=published.mean,
        std=published.std,
    )


def _image_size(shapes: InputShapes | None, source: str) -> ImageSize | None:
    """Return the shape that is set for a model that takes one image."""
    match shapes:
        case None:
            return None
        case ((channels, height, width),):
            return channels, height, width
    raise ModelError(
        "model-input/not-one-image",
        source,
        f"it takes one image, but model.input is {shapes}",
        "set model.input to [channels, height, width]",
    )


def _from_checkpoint(
    source: str, arch: str, settings: LoadSettings, trust_pickle: bool, head: str | None
) -> LoadedModel:
    if arch != "auto" and user_module.is_code(arch):
        return load_code(f"{arch}@{source}", settings, trust_pickle=trust_pickle)
    if source.endswith(INDEX):
        folder = Path(source).parent
        tensors, shard_notes = read_tensors(folder)
        checkpoint = LoadedCheckpoint(tensors, sha256_of_weights(folder), shard_notes)
    else:
        checkpoint = read_checkpoint(source, trust_pickle=trust_pickle, weights=settings.weights)
    try:
        size, num_classes = _image_size(settings.shapes, source), settings.num_classes
        if arch == "auto":
            identified = identify_architecture(
                checkpoint.tensors, source, num_classes=num_classes, size=size, hint=checkpoint.arch, head=head
            )
        else:
            identified = load_named(
                checkpoint.tensors, source, arch=arch, num_classes=num_classes, size=size, head=head
            )
    except ModelError as error:
        if checkpoint.module is None or arch != "auto":
            hint = error.hint
            if checkpoint.is_lightning and error.code == UNKNOWN_ARCHITECTURE:
                hint = f"give the class that Lightning saved it from: path/to/net.py:Class@{source}; or {hint}"
            if checkpoint.aside and settings.weights is None:
                hint = f"{hint}; --set model.weights={checkpoint.aside[0]} takes other weights of the file"
            if hint == error.hint:
                raise
            raise ModelError(error.code, error.place, error.problem, hint) from None
        identified = pickled_module(checkpoint, source, settings)
    mean, std = _normalization(identified.spec)
    loaded = LoadedModel(
        identified.module,
        identified.spec,
        source,
        sha256=checkpoint.sha256,
        notes=(*checkpoint.notes, *identified.notes),
        mean=mean,
        std=std,
    )
    return loaded if can_rebuild(identified.spec) else checked_copies(loaded)


def _normalization(spec: ModelSpec) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return the usual mean and standard deviation, unless the number of channels is another one."""
    if not can_rebuild(spec):
        return None, None
    usual = model_defaults(spec.source)
    return (usual.mean, usual.std) if spec.input[0] == usual.input[0] else (None, None)
