"""From what the user names to a loaded model."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from compressor.core import ImageSize, LoadedModel, ModelInput, ModelSpec, one_image
from compressor.errors import ModelError
from compressor.models import user_code
from compressor.models.adapters import refuse_adapters
from compressor.models.batch_dims import BatchDimSetting, with_batch_dim
from compressor.models.build import (
    FAMILIES,
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    RESCALES_INPUT,
    SEED,
    build_named,
    can_rebuild,
    fixed_seed,
    model_defaults,
    split_name,
    timm_settings,
)
from compressor.models.checkpoint import read_checkpoint
from compressor.models.faithful import checked_copies
from compressor.models.identify import IdentifiedModel, identify_architecture, load_named, mismatch
from compressor.models.nearest import MAX_PARTS_COMPARED
from compressor.models.prepare import prepare_module, refuse_opaque
from compressor.models.saved_model import PLAN, load_folder
from compressor.models.shape_match import compare_shapes, shapes_of, under_prefix
from compressor.models.subtree import Subtree, subtrees_named

WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
DIGITS = Path(__file__).with_name("resnet8-digits.safetensors")
_DIGITS_SOURCE = "cifar:resnet8"

Shapes = tuple[tuple[int, ...], ...]
"""Of each input, without the batch."""


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
) -> LoadedModel:
    """Load `torchvision:`, `timm:` or `cifar:` names, a file.py:factory, a checkpoint, or a folder made by us.

    Args:
        source: what the user names.
        arch: the architecture of a checkpoint, or `auto`.
        num_classes: of the last layer; None takes what the weights have.
        input: the shape of one input without the batch, (channels, height, width) for a model of pictures, or one
            shape for each of several.
        batch_dim: the batch dimension of a user's own inputs, or of each of them; None = they have none.
        trust_pickle: load a pickle that runs code.
        weights: the key or prefix of the weights to take from a checkpoint that holds several.
        head: the module of a checkpoint that takes the place of the architecture's last layer.

    Raises:
        ModelError, UntrustedFile, VerificationFailed: each with what was found and what to do.
    """
    shapes = None if input is None else user_code.shapes_in(input)
    if weights is not None and not _is_checkpoint(source):
        raise ModelError(
            "model/not-a-checkpoint",
            source,
            f"model.weights is {weights}",
            "set it to auto; it is for checkpoints only",
        )
    if user_code.is_code(source):
        loaded = _from_code(source, num_classes, shapes, trust_pickle, weights, batch_dim)
    elif source.partition(":")[0] in FAMILIES:
        loaded = _from_name(source, num_classes, _picture(shapes, source))
    elif (Path(source) / PLAN).is_file():
        loaded = load_folder(source)
    elif not Path(source).exists() and Path(source).suffix == "" and "/" not in source:
        split_name(source)  # a bare word is taken for an architecture without its family, and the error says so
        raise AssertionError("split knows no bare words")
    else:
        path = _weights_in(Path(source)) if Path(source).is_dir() else source
        loaded = _from_checkpoint(path, arch, num_classes, shapes, trust_pickle, weights, head, batch_dim)
        return replace(loaded, name=source)
    if arch not in ("auto", loaded.spec.source):
        problem = f"it is {loaded.spec.source}, but model.arch is {arch}"
        raise ModelError(
            "model/architecture-differs", source, problem, "set model.arch to auto: it applies to checkpoints only"
        )
    own = tuple(model_input.shape for model_input in loaded.spec.inputs)
    for key, requested, actual in (("num_classes", num_classes, loaded.spec.num_classes), ("input", shapes, own)):
        if requested not in (None, actual):
            problem = f"its {key} is {actual}, but model.{key} is {requested}"
            raise ModelError("model/setting-differs", source, problem, f"set model.{key} to auto, or to {actual}")
    return loaded


def resize_head(model: LoadedModel, num_classes: int | None) -> LoadedModel:
    """Rebuild a model with random weights for another number of classes.

    Args:
        model: The model.
        num_classes: The number of classes in the data; None = the targets are no classes.

    Returns:
        The new model; the model itself where its weights are trained or the number is the same.
    """
    if not model.untrained or num_classes in (None, model.spec.num_classes):
        return model
    return load_model(model.name, num_classes=num_classes, input=model.spec.input)


def _is_checkpoint(source: str) -> bool:
    if user_code.is_code(source):
        return user_code.split_code(source)[2] is not None
    return source.partition(":")[0] not in FAMILIES and not (Path(source) / PLAN).is_file()


def _weights_in(folder: Path) -> str:
    """The only file of weights in a folder, as Hugging Face libraries lay it out."""
    files = sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_FILES)
    preferred = [path for path in files if path.name == "model.safetensors"] or files
    if len(preferred) == 1:
        return str(preferred[0])
    problem = f"a folder with {len(files)} files of weights" if files else "a folder without plan.json or weights"
    hint = f"name one, such as {files[0]}" if files else "give a checkpoint, or a folder that compress wrote"
    raise ModelError("model-file/several-in-folder", str(folder), problem, hint)


def _from_name(source: str, num_classes: int | None, size: ImageSize | None) -> LoadedModel:
    base, _, weights = source.partition("@")
    family, name = split_name(base)
    usual = model_defaults(base)
    spec = ModelSpec(base, one_image(size or usual.input), usual.num_classes if num_classes is None else num_classes)
    mean, std = _normalisation(spec)
    if not weights:
        with fixed_seed():
            module = build_named(spec)
        note = f"random weights (seed {SEED}): nothing was trained; add @WEIGHTS for published ones"
        return LoadedModel(module, spec, source, notes=(note,), mean=mean, std=std, untrained=True)
    if family == "cifar":
        return _digits(source, base, weights)
    if family == "torchvision":
        return _torchvision_weights(source, spec, name, weights, size)
    if weights != "pretrained":
        raise ModelError(
            "weights/unknown-name",
            source,
            f"there are no weights {weights!r}",
            f"give {base}@pretrained, or {base}.TAG@pretrained",
        )
    import timm

    settings = timm_settings(spec, name)
    module = _downloaded(source, lambda: timm.create_model(name, pretrained=True, **settings))
    return LoadedModel(module.float().eval(), spec, source, mean=mean, std=std)


def _torchvision_weights(source: str, spec: ModelSpec, name: str, wanted: str, size: ImageSize | None) -> LoadedModel:
    from torchvision import models

    known = models.get_model_weights(name)
    if wanted not in known.__members__:
        close = get_close_matches(wanted, known.__members__, n=1, cutoff=0.3)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(known.__members__)}"
        raise ModelError("weights/unknown-name", source, f"there are no weights {wanted!r}", hint)
    weights = known[wanted]
    preset = weights.transforms()
    crop = getattr(preset, "crop_size", [spec.input[1]])[0]
    state = _downloaded(source, lambda: weights.get_state_dict(progress=False, check_hash=True))
    loaded = load_named(state, source, arch=spec.source, num_classes=spec.num_classes, size=size or (3, crop, crop))
    mean, std = tuple(getattr(preset, "mean", IMAGENET_MEAN)), tuple(getattr(preset, "std", IMAGENET_STD))
    if name in RESCALES_INPUT:
        mean = std = HALF
    return LoadedModel(loaded.module, loaded.spec, source, notes=loaded.notes, mean=mean, std=std)


def _downloaded(source: str, fetch: Callable[[], Any]) -> Any:
    silence = io.StringIO()
    logging.disable(logging.ERROR)  # the clients announce themselves and every retry, on stdout too
    try:
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            return fetch()
    except Exception as error:  # no network, no space, a wrong hash, no such file: each client has its own errors
        problem = f"the weights could not be downloaded ({type(error).__name__}: {str(error)[:200]})"
        raise ModelError(
            "weights/download-failed", source, problem, "check the network connection, or give a checkpoint file"
        ) from None
    finally:
        logging.disable(logging.NOTSET)


def _digits(source: str, base: str, weights: str) -> LoadedModel:
    """The small network trained on scikit-learn's digits that ships with the package."""
    if (base, weights) != (_DIGITS_SOURCE, "digits"):
        raise ModelError(
            "weights/unknown-name",
            source,
            f"there are no weights {weights!r}",
            f"give {_DIGITS_SOURCE}@digits, the only weights that are included",
        )
    with safe_open(DIGITS, framework="pt") as file:
        header = {key: json.loads(value) for key, value in file.metadata().items() if key in ("input", "mean", "std")}
    checkpoint = read_checkpoint(DIGITS)
    channels, height, width = header["input"]
    loaded = load_named(checkpoint.tensors, source, arch=base, num_classes=None, size=(channels, height, width))
    return LoadedModel(
        loaded.module,
        loaded.spec,
        source,
        sha256=checkpoint.sha256,
        notes=loaded.notes,
        mean=tuple(header["mean"]),
        std=tuple(header["std"]),
    )


def _picture(shapes: Shapes | None, source: str) -> ImageSize | None:
    """The one shape asked for, of a model that takes a picture."""
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


def _from_code(
    source: str,
    num_classes: int | None,
    shapes: Shapes | None,
    trust_pickle: bool,
    weights: str | None,
    batch_dim: BatchDimSetting,
) -> LoadedModel:
    path, factory, checkpoint_path = user_code.split_code(source)
    base = f"{path.resolve()}:{factory}"
    checkpoint = None
    if checkpoint_path is not None:
        checkpoint = read_checkpoint(checkpoint_path, trust_pickle=trust_pickle, weights=weights)
    saved = checkpoint.hyper_parameters if checkpoint else {}
    with fixed_seed():
        arguments = user_code.constructor_arguments(base, saved)
        module = user_code.build_module(base, num_classes, arguments)
    digest: str | None = None
    notes: tuple[str, ...] = ("weights as the factory returns them",)
    prepared: tuple[str, ...] = ()
    if checkpoint is not None and checkpoint_path is not None:
        module, part, prepared = _fitted(module, checkpoint.tensors, checkpoint_path, f"{path.name}:{factory}")
        module.load_state_dict({**module.state_dict(), **part.tensors})
        used = (f"built with the saved hyper-parameters {', '.join(arguments)}",) if arguments else ()
        digest, notes = checkpoint.sha256, (*checkpoint.notes, *used, *part.notes)
    module, changes = prepare_module(module)
    with fixed_seed():
        inputs, note = user_code.find_inputs(base, module, shapes, batch_dim)
    spec = ModelSpec(base, inputs, num_classes, arguments)
    notes = (*notes, *prepared, *changes, *([note] if note else []))
    return checked_copies(LoadedModel(module, spec, source, sha256=digest, notes=notes))


def _fitted(
    module: nn.Module, tensors: Mapping[str, Tensor], where: str, what: str
) -> tuple[nn.Module, Subtree, tuple[str, ...]]:
    """The module, and its part of a state dict that was written before or after its weights were folded; and notes."""
    try:
        return module, _part_for(module, tensors, where, what), ()
    except ModelError as error:
        module, notes = prepare_module(module)
        try:
            return module, _part_for(module, tensors, where, what), notes
        except ModelError:
            raise error from None


def _part_for(module: nn.Module, tensors: Mapping[str, Tensor], where: str, what: str) -> Subtree:
    """The part of a state dict that is the module's own. Raises ModelError with what is missing in the nearest."""
    expected = shapes_of(module)
    roots = {name.partition(".")[0] for name in expected}
    inner = [name.partition(".")[2] for name in expected] if len(roots) == 1 else []
    fits = []
    for part in subtrees_named(tensors, [*expected, *inner])[:MAX_PARTS_COMPARED]:
        part = replace(part, tensors=under_prefix(part.tensors, expected))
        fits.append(compare_shapes(shapes_of(part.tensors), expected))
        if fits[-1].ok:
            return part
    refuse_adapters(tensors, where)
    raise mismatch(where, what, min(fits, key=lambda fit: fit.distance))


def _from_checkpoint(
    source: str,
    arch: str,
    num_classes: int | None,
    shapes: Shapes | None,
    trust_pickle: bool,
    weights: str | None,
    head: str | None,
    batch_dim: BatchDimSetting,
) -> LoadedModel:
    if arch != "auto" and user_code.is_code(arch):
        return _from_code(f"{arch}@{source}", num_classes, shapes, trust_pickle, weights, batch_dim)
    checkpoint = read_checkpoint(source, trust_pickle=trust_pickle, weights=weights)
    try:
        size = _picture(shapes, source)
        if arch == "auto":
            identified = identify_architecture(
                checkpoint.tensors, source, num_classes=num_classes, size=size, hint=checkpoint.arch, head=head
            )
        else:
            identified = load_named(
                checkpoint.tensors, source, arch=arch, num_classes=num_classes, size=size, head=head
            )
    except ModelError:
        if checkpoint.module is None or arch != "auto":
            raise
        identified = _saved_whole(checkpoint.module, source, num_classes, shapes, batch_dim)
    mean, std = _normalisation(identified.spec)
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


def _saved_whole(
    module: nn.Module,
    source: str,
    num_classes: int | None,
    shapes: Shapes | None,
    batch_dim: BatchDimSetting,
) -> IdentifiedModel:
    """A trusted pickle is its own architecture when no known one fits; only that pickle can build it again."""
    refuse_opaque(module, source)
    module, prepared = prepare_module(module.float())
    inputs: tuple[ModelInput, ...]
    if shapes is None:
        inputs = one_image(user_code.input_that_runs(module, source))
    else:
        inputs = user_code.named_in(with_batch_dim([ModelInput(shape) for shape in shapes], batch_dim), module)
    spec = ModelSpec(f"pickle:{source}", inputs, num_classes)
    return IdentifiedModel(module, spec, ("architecture taken from the trusted pickle itself", *prepared))


def _normalisation(spec: ModelSpec) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """The architecture's usual mean and standard deviation, unless the channels are not its own."""
    if not can_rebuild(spec):
        return None, None
    usual = model_defaults(spec.source)
    return (usual.mean, usual.std) if spec.input[0] == usual.input[0] else (None, None)
