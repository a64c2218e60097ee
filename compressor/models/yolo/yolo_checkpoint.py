"""Reads a checkpoint of ultralytics without running its pickle: the yaml that its model was built from, and tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from compressor.errors import ModelError, UntrustedFile
from compressor.models.checkpoints.archive import detect_format, pickle_in_zip
from compressor.models.checkpoints.normalize_checkpoint import dense_float32
from compressor.models.checkpoints.pickle_reader import UnreadObject
from compressor.models.checkpoints.torch_file import read_torch_file

TASKS = "ultralytics.nn.tasks."
NO_LAYER = "no yaml says pruned widths: train with trainer=compressor.yolo_trainer(model)"
"""The only layer in the yaml of slim.pt, which no module has: whatever rebuilds the model from it fails with this."""
MAX_LAYERS = 1000
_ACTIVATION = re.compile(r"(torch\.)?nn\.[A-Za-z0-9]+\([A-Za-z0-9_=., -]*\)")
_LAYER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_TRAINING_ARGUMENTS = ("imgsz", "task", "single_cls")  # what a checkpoint that is used for prediction needs


@dataclass(frozen=True, slots=True)
class YoloCheckpoint:
    """What a checkpoint says of its model."""

    model_class: str  # in ultralytics.nn.tasks
    yaml: Mapping[str, Any]
    names: tuple[str, ...]
    arguments: Mapping[str, Any]  # of its training, plain data
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...]


def is_yolo(path: Path) -> bool:
    """Return whether a .pt file holds a pickled model of ultralytics."""
    if path.suffix != ".pt" or not path.is_file() or detect_format(path) != "zip":
        return False
    try:
        return TASKS.rstrip(".").encode() in pickle_in_zip(path)
    except (ModelError, UntrustedFile):
        return False


def read_yolo(path: Path) -> YoloCheckpoint:
    """Read the model of a checkpoint, the averaged one where it holds both. Nothing in the file is executed.

    Raises:
        ModelError: It holds no model of ultralytics, or its yaml is malformed.
        UntrustedFile: Its yaml would run code.
    """
    where = str(path)
    reading = read_torch_file(path, detect_format(path))
    saved = reading.values[-1] if reading.values else None
    if reading.fault:
        raise ModelError("model-file/damaged", where, reading.fault, "copy or download it again")
    holder = saved if isinstance(saved, dict) else {"model": saved}
    held = ((key, holder.get(key)) for key in ("ema", "model"))
    models = [(key, value) for key, value in held if isinstance(value, UnreadObject) and value.name.startswith(TASKS)]
    if not models:
        problem = "it holds no model of ultralytics"
        raise ModelError("model-file/no-yolo-model", where, problem, "give a file that YOLO(...).save wrote")
    key, model = models[0]
    state = model.state if isinstance(model.state, dict) else {}
    yaml = state.get("yaml")
    if not isinstance(yaml, dict):
        hint = "give your code that builds it: path/to/net.py:factory"
        raise ModelError("model-file/no-yolo-model", where, f"its {model.name} has no yaml", hint)
    if any(layer[2:3] == [NO_LAYER] for layer in _list(yaml.get("backbone"))):
        hint = "give the output folder of that run"
        raise ModelError("model-file/pruned-yolo", where, "its widths are pruned, and no yaml says them", hint)
    check_yaml(yaml, where)
    tensors, notes = dense_float32(dict(_tensors(model, "")), where)
    names = state.get("names")
    arguments = {**_plain(state.get("args") or {}), **_plain(holder.get("train_args") or {})}
    return YoloCheckpoint(
        model.name.removeprefix(TASKS),
        _plain(yaml),
        tuple(map(str, names.values() if isinstance(names, dict) else names or ())),
        {name: arguments[name] for name in _TRAINING_ARGUMENTS if name in arguments},
        tensors,
        (f"read {key} of {path.name} without running its pickle", *notes),
    )


def check_yaml(yaml: Mapping[str, Any], where: str) -> None:
    """Check that a yaml only names layers and plain activations: ultralytics evaluates some of its words.

    Args:
        yaml: The yaml of a model.
        where: The file that messages name.

    Raises:
        ModelError: It is malformed.
        UntrustedFile: It holds anything else.
    """
    layers = [*_list(yaml.get("backbone")), *_list(yaml.get("head"))]
    well_formed = all(isinstance(layer, list | tuple) and len(layer) == 4 for layer in layers)
    if not layers or len(layers) > MAX_LAYERS or not well_formed:
        problem = (
            f"its yaml has {len(layers)} layers; allowed: 1 to {MAX_LAYERS}, [from, number, module, arguments] for each"
        )
        raise ModelError("model-file/malformed-yaml", where, problem, "copy or download it again")
    words = [str(layer[2]) for layer in layers]
    odd = [word for word in words if not _LAYER.fullmatch(word) or "__" in word]
    activation = yaml.get("activation")
    if activation is not None and not _ACTIVATION.fullmatch(str(activation)):
        odd.append(str(activation))
    if odd:
        problem = f"its yaml names {odd[0][:80]!r}, which is no layer and was not executed"
        hint = "get the file from its author again"
        raise UntrustedFile("untrusted-file/yaml-with-code", where, problem, hint)


def _tensors(module: UnreadObject, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the persistent tensors of a pickled module, as its state dict has them."""
    state = module.state if isinstance(module.state, dict) else {}
    transient = state.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for name, tensor in (state.get(kind) or {}).items():
            if isinstance(tensor, Tensor) and (kind == "_parameters" or name not in transient):
                yield f"{prefix}{name}", tensor
    for name, part in (state.get("_modules") or {}).items():
        if isinstance(part, UnreadObject):
            yield from _tensors(part, f"{prefix}{name}.")


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _plain(value: object) -> Any:
    """Return plain data alone; an object of settings is its attributes."""
    if isinstance(value, UnreadObject):
        value = value.state or value.items
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items() if _is_plain(entry)}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value if _is_plain(entry)]
    return value if isinstance(value, str | int | float | bool) else None if value is None else {}


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list | tuple | dict)
