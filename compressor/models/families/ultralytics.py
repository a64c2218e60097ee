"""`ultralytics:FILE.pt`, or the file itself: detectors, classifiers and others of ultralytics.

The pickle is read and never run; the network is built from the yaml in it.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.core import LoadedModel, ModelInput, ModelSpec
from compressor.errors import ModelError
from compressor.file_digest import sha256
from compressor.models.families.base import FileFamily, LibraryFiles, LoadSettings
from compressor.models.identification.shape_match import compare_shapes, shapes_of
from compressor.models.inputs.example_inputs import example_inputs
from compressor.models.preparation.signature import select_outputs, without_signature
from compressor.models.yolo.yolo_checkpoint import YoloCheckpoint, is_yolo, read_yolo
from compressor.models.yolo.yolo_module import build_yolo, write_yolo
from compressor.tensors import tree_leaves

SLIM = "slim.pt"
IMAGE_SIZE = 640  # what ultralytics trains at unless it is told


class Ultralytics(FileFamily):
    """Models that ultralytics saved."""

    prefix = "ultralytics"
    form = "FILE.pt"
    rank = 5
    draws_only_weights = False

    def claims(self, path: Path) -> bool:
        return is_yolo(path) and find_spec("ultralytics") is not None

    def load(self, path: Path, name: str, settings: LoadSettings) -> LoadedModel:
        """Load a checkpoint, as `FileFamily.load` does.

        Args:
            path: The file.
            name: The model as the user names it.
            settings: What the user sets.

        Returns:
            The model; it answers with the predictions alone.

        Raises:
            ModelError: The library is not installed, or the file holds none of its models.
            UntrustedFile: The yaml in the file would run code.
        """
        checkpoint = read_yolo(path)
        module, fused = _with_weights(checkpoint, str(path))
        channels = checkpoint.yaml.get("channels", checkpoint.yaml.get("ch", 3))
        size = settings.shapes[0] if settings.shapes else (channels, *_image_size(checkpoint.arguments.get("imgsz")))
        spec = ModelSpec(
            f"{self.prefix}:{path.resolve()}",
            (ModelInput(tuple(size), name="images"),),
            len(checkpoint.names) if checkpoint.model_class == "ClassificationModel" else None,
            {
                "class": checkpoint.model_class,
                "yaml": dict(checkpoint.yaml),
                "fused": fused,
                "names": list(checkpoint.names),
                "train_args": dict(checkpoint.arguments),
            },
        )
        outputs = _predictions(module, spec)
        built = f"built by ultralytics as {checkpoint.model_class}"
        note = "the raw outputs beside the predictions left out, which model.outputs can name"
        return LoadedModel(
            select_outputs(module, outputs),
            replace(spec, outputs=outputs),
            name,
            sha256=sha256(path),
            notes=(*checkpoint.notes, built, *([note] if outputs else [])),
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
        )

    def build(self, spec: ModelSpec, name: str) -> nn.Module:
        """Build the network that the spec's yaml describes, as `Family.build` does.

        Args:
            spec: Its yaml and inputs.
            name: The file, which is not read.

        Returns:
            The module.

        Raises:
            ModelError: The installed ultralytics does not take the yaml.
        """
        saved = spec.arguments
        yaml = saved.get("yaml")
        if not isinstance(yaml, dict):
            raise ModelError(
                "model/unknown-architecture", spec.source, "its yaml was not saved", "give the file itself"
            )
        return build_yolo(str(saved.get("class")), yaml, bool(saved.get("fused")), spec.source)

    def save(self, model: LoadedModel, folder: Path) -> LibraryFiles:
        """Write slim.pt, which `YOLO("slim.pt")` loads.

        Args:
            model: The slim model.
            folder: The output folder.

        Returns:
            What was written.
        """
        saved: Any = model.spec.arguments
        height, width = model.spec.inputs[0].shape[1:]
        arguments = {**saved["train_args"], "imgsz": height if height == width else [height, width]}
        write_yolo(without_signature(model.module), tuple(saved["names"]), arguments, folder / SLIM)
        return LibraryFiles("ultralytics", SLIM, f"YOLO('FOLDER/{SLIM}')")


def _with_weights(checkpoint: YoloCheckpoint, where: str) -> tuple[nn.Module, bool]:
    """Build the module and load its weights; also whether its normalizations are folded."""
    for fused in (False, True):
        module = build_yolo(checkpoint.model_class, checkpoint.yaml, fused, where)
        fit = compare_shapes(shapes_of(checkpoint.tensors), shapes_of(module))
        if fit.ok:
            module.load_state_dict({**module.state_dict(), **checkpoint.tensors})
            return module.float().eval(), fused
    hint = "install the version of ultralytics that wrote it"
    raise ModelError("checkpoint/tensors-differ", where, f"its tensors are not those of its yaml: {fit}", hint)


def _predictions(module: nn.Module, spec: ModelSpec) -> tuple[int, ...]:
    """The output tensors that a prediction reads: the first part of what forward returns; () if it has one part."""
    with torch.no_grad():
        output = module(*example_inputs(LoadedModel(module, spec, spec.source)))
    first = output[0] if isinstance(output, tuple | list) and len(output) > 1 else output
    count = len(tree_leaves(first))
    return () if count == len(tree_leaves(output)) else tuple(range(count))


def _image_size(value: object) -> tuple[int, int]:
    match value:
        case int():
            return value, value
        case [int(height), int(width)]:
            return height, width
    return IMAGE_SIZE, IMAGE_SIZE


FAMILY = Ultralytics()
