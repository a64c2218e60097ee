"""Builds modules of ultralytics from yaml, and writes them as ultralytics reads them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.errors import ModelError
from compressor.models.yolo.yolo_checkpoint import NO_LAYER, check_yaml
from compressor.silence import silent_logging, silent_output

_NO_YAML = {"backbone": [[-1, 1, NO_LAYER, []]], "head": []}
"""What a trainer would rebuild a slim model from. It fails; from the dense yaml the model would silently be dense."""


def ultralytics_tasks(where: str) -> Any:
    """Import the networks of ultralytics, silently.

    Raises:
        ModelError: It is not installed.
    """
    try:
        with silent_logging(logging.WARNING), silent_output():
            from ultralytics.nn import tasks
    except ImportError as error:
        problem = f"ultralytics builds this model, and it is not installed ({error})"
        hint = "pip install 'compressor[ultralytics]'"
        raise ModelError("model/library-missing", where, problem, hint) from None
    return tasks


def build_yolo(model_class: str, yaml: Mapping[str, Any], fused: bool, where: str) -> nn.Module:
    """Build a network with random weights.

    Args:
        model_class: Its class in ultralytics.nn.tasks.
        yaml: What it is built from.
        fused: Whether its normalizations are folded into its convolutions.
        where: The file that messages name.

    Returns:
        The module in eval mode.

    Raises:
        ModelError: The installed ultralytics does not have the class, or does not take the yaml.
        UntrustedFile: The yaml would run code.
    """
    tasks = ultralytics_tasks(where)
    check_yaml(yaml, where)
    cls = getattr(tasks, model_class, None)
    if not isinstance(cls, type) or not issubclass(cls, nn.Module):
        problem = f"the installed ultralytics has no {model_class}"
        raise ModelError("model/unknown-architecture", where, problem, "install a version that has it")
    for layer in (*yaml["backbone"], *yaml["head"]):
        _check_layer(tasks, str(layer[2]), where)
    channels = yaml.get("channels", yaml.get("ch", 3))
    try:
        with silent_logging(logging.WARNING), silent_output():
            module: nn.Module = cls(deepcopy(dict(yaml)), ch=channels, nc=yaml.get("nc"), verbose=False).eval()
            return module.fuse(verbose=False) if fused else module  # type: ignore[operator]
    except Exception as error:  # layers raise whatever they happen to
        problem = f"ultralytics cannot build it ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        raise ModelError("model/not-buildable", where, problem, "install the version that wrote it") from error


def write_yolo(module: nn.Module, names: tuple[str, ...], arguments: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint that `YOLO(path)` loads.

    Args:
        module: A module of ultralytics with plain inputs and outputs.
        names: The names of its classes.
        arguments: Of its training, such as `imgsz`.
        path: The file.
    """
    import ultralytics

    yaml: Any = module.yaml
    dense = {key: yaml[key] for key in ("backbone", "head")}
    module.yaml = {**yaml, "dense": dense, **_NO_YAML}  # type: ignore[assignment]
    if names:
        module.names = dict(enumerate(names))  # type: ignore[assignment]  # an attribute, no submodule
    module.args = dict(arguments)  # type: ignore[assignment]
    checkpoint = {
        "model": module,
        "ema": None,
        "epoch": -1,
        "train_args": dict(arguments),
        "date": datetime.now(UTC).isoformat(),
        "version": ultralytics.__version__,
    }
    torch.save(checkpoint, path)


def _check_layer(tasks: Any, word: str, where: str) -> None:
    root = torch.nn if word.startswith("nn.") else tasks
    kind = getattr(root, word.removeprefix("nn."), None)
    if word.startswith("torchvision.ops."):
        import torchvision

        kind = getattr(torchvision.ops, word.removeprefix("torchvision.ops."), None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        problem = f"its yaml names {word!r}, which is no layer of the installed ultralytics"
        raise ModelError("model/unknown-architecture", where, problem, "install the version that wrote it")
