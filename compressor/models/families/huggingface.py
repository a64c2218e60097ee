"""`hf:FOLDER`, or the folder itself: `config.json` and weights as Hugging Face libraries write them.

`transformers` builds the module from the configuration; code in the folder is never run. A folder of timm, and one of
transformers' wrapper of timm, are built by timm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor.core import LoadedModel, ModelSpec
from compressor.errors import ModelError
from compressor.execution.differences import is_close
from compressor.models.families.base import FileFamily, LibraryFiles, LoadSettings
from compressor.models.hugging_face import transformers_module as library
from compressor.models.hugging_face.transformers_folder import (
    CONFIG,
    copy_processor,
    image_statistics,
    names_architecture,
    read_json,
    read_tensors,
    sha256_of_weights,
)
from compressor.models.hugging_face.transformers_inputs import find_named_inputs, hidden_outputs
from compressor.models.hugging_face.transformers_widths import (
    build_on_meta,
    find_config_steps,
    slim_config,
    with_explicit_widths,
)
from compressor.models.identification.identify import load_named
from compressor.models.inputs.example_inputs import example_inputs
from compressor.models.preparation.signature import name_inputs, select_outputs, without_selection, without_signature
from compressor.tensors import tree_leaves

SLIM_FOLDER = "huggingface"
SAME_OUTPUTS = 1e-4  # of the largest output: sums over other widths are rounded differently
IMAGES = "pixel_values"  # the input whose size the configuration says
SETTINGS = "config"
"""The key of `ModelSpec.arguments` that holds the configuration, as plain data."""


class HuggingFace(FileFamily):
    """The networks of the installed transformers, with weights in a folder."""

    prefix = "hf"
    form = "FOLDER"
    rank = 4
    draws_only_weights = False

    def claims(self, path: Path) -> bool:
        return names_architecture(path)

    def load(self, path: Path, name: str, settings: LoadSettings) -> LoadedModel:
        """Load a folder, as `FileFamily.load` does.

        Args:
            path: The folder.
            name: The model as the user names it.
            settings: What the user sets.

        Returns:
            The model; inputs are named as its forward names them.

        Raises:
            ModelError: The library is not installed or has no such architecture, or the weights do not fit.
            UntrustedFile: The architecture is code in the folder.
        """
        if not (path / CONFIG).is_file():
            hint = "give a folder that save_pretrained wrote"
            raise ModelError("model-file/no-configuration", str(path), f"it has no {CONFIG}", hint)
        config = read_json(path / CONFIG)
        tensors, notes = read_tensors(path)
        if isinstance(config.get("architecture"), str):
            loaded = _load_timm(path, name, config, tensors, settings)
        else:
            cls, plain = library.architecture_of(config, path)
            module, more = library.load_architecture(cls, plain, tensors, path)
            loaded = _with_signature(module, plain, path, name, settings)
            steps = find_config_steps(partial(library.build_architecture, cls, where=path), with_explicit_widths(plain))
            loaded = replace(loaded, config_steps=steps)
            notes = (*notes, f"built by transformers as {cls.__name__}", *more)
        mean, std = image_statistics(path)
        return replace(
            loaded,
            sha256=sha256_of_weights(path),
            notes=(*notes, *loaded.notes),
            mean=loaded.mean if mean is None else mean,
            std=loaded.std if std is None else std,
        )

    def build(self, spec: ModelSpec, name: str) -> nn.Module:
        """Build the network that the spec's configuration describes, as `Family.build` does.

        Args:
            spec: Its configuration and inputs.
            name: The folder, which is not read.

        Returns:
            The module.

        Raises:
            ModelError: The installed transformers does not take the configuration.
        """
        cls, plain = library.architecture_of(_config_of(spec), spec.source)
        module = library.build_architecture(cls, plain, spec.source)
        return name_inputs(module, [one.name for one in spec.inputs])

    def save(self, model: LoadedModel, folder: Path) -> LibraryFiles:
        """Write a folder that `from_pretrained` reads, where the configuration can say the slim widths.

        Args:
            model: The slim model.
            folder: The output folder.

        Returns:
            What was written, or why nothing was.
        """
        name = type(model.module).__name__
        try:
            module = _module_of_slim_config(model)
        except ModelError as error:
            return LibraryFiles("transformers", None, "compressor.load(FOLDER)", f"{error.problem}; {error.hint}")
        out = folder / SLIM_FOLDER
        library.save_module(module, out)
        copy_processor(Path(model.spec.source.partition(":")[2]), out)
        return LibraryFiles("transformers", SLIM_FOLDER, f"{name}.from_pretrained('FOLDER/{SLIM_FOLDER}')")


def _module_of_slim_config(model: LoadedModel) -> nn.Module:
    """Build the slim module from a configuration alone. Raises ModelError if there is none."""
    plain = without_signature(model.module)
    cls, config = library.architecture_of(_config_of(model.spec), model.spec.source)
    build = partial(library.build_architecture, cls, where=model.spec.source)
    config = dict(with_explicit_widths(config))
    dense, slim = (
        {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        for module in (build_on_meta(build, config), plain)
    )
    steps = model.config_steps or find_config_steps(build, config)
    module = build(slim_config(build, config, steps, dense, slim))
    module.load_state_dict(plain.state_dict())
    module = name_inputs(module.eval(), [one.name for one in model.spec.inputs])
    inputs = example_inputs(model, 2)
    with torch.no_grad():
        pairs = zip(tree_leaves(without_selection(model.module)(*inputs)), tree_leaves(module(*inputs)), strict=True)
        same = all(is_close(other, one, SAME_OUTPUTS) for one, other in pairs)
    if not same:
        problem = "the module of the changed configuration computes other outputs"
        raise ModelError("model/config-cannot-say-widths", model.name, problem, "load the folder with compressor.load")
    return without_signature(module)


def _config_of(spec: ModelSpec) -> dict[str, Any]:
    config = spec.arguments.get(SETTINGS)
    if isinstance(config, dict):
        return config
    hint = "give the folder itself"
    raise ModelError("model/unknown-architecture", spec.source, "its configuration was not saved", hint)


def _with_signature(
    module: nn.Module, config: Mapping[str, Any], path: Path, name: str, settings: LoadSettings
) -> LoadedModel:
    """Find inputs and outputs of a module."""
    inputs = find_named_inputs(module, path, settings.shapes)
    labels: Any = module.config
    classes: int | None = labels.num_labels if type(module).__name__.endswith(_CLASSIFIERS) else None
    if settings.num_classes not in (None, classes):
        problem = f"its num_classes is {classes}, but model.num_classes is {settings.num_classes}"
        raise ModelError("model/setting-differs", name, problem, "set model.num_classes to auto")
    spec = ModelSpec(f"hf:{path.resolve()}", inputs, classes, {SETTINGS: dict(config)})
    module = name_inputs(module, [one.name for one in inputs])
    outputs, notes = hidden_outputs(module, spec)
    module = select_outputs(module, outputs)
    lengths = {one.name: tuple(range(len(one.shape))) for one in inputs if one.name != IMAGES}
    guessed = lengths if settings.shapes is None else {}
    return LoadedModel(module, replace(spec, outputs=outputs), name, notes=notes, guessed_sizes=guessed)


_CLASSIFIERS = ("ForImageClassification", "ForSequenceClassification", "ForAudioClassification")


def _load_timm(
    path: Path, name: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], settings: LoadSettings
) -> LoadedModel:
    """Load a folder of timm, or of transformers' wrapper of timm."""
    usual = config.get("pretrained_cfg") or {}
    size = settings.shapes[0] if settings.shapes else usual.get("input_size")
    arch = f"timm:{config['architecture']}"
    identified = load_named(
        tensors,
        str(path),
        arch=arch,
        num_classes=settings.num_classes,
        size=tuple(size) if size else None,
    )
    mean, std = (tuple(usual[key]) if isinstance(usual.get(key), list) else None for key in ("mean", "std"))
    return LoadedModel(identified.module, identified.spec, name, notes=identified.notes, mean=mean, std=std)


FAMILY = HuggingFace()
