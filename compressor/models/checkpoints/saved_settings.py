"""Reads the architecture's name and the hyper-parameters that a checkpoint holds beside the weights."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.models.checkpoints.pickle_reader import UnreadObject

_NAMES_OF_ARCHITECTURE = ("arch", "architecture", "model_name", "backbone", "encoder_name")


def architecture_name(saved: object) -> str | None:
    """Return the architecture's name, which training scripts save beside the weights or among the arguments."""
    if not isinstance(saved, Mapping):
        return None
    for record in (saved, saved.get("hyper_parameters"), saved.get("config")):
        values = [record.get(key) for key in _NAMES_OF_ARCHITECTURE] if isinstance(record, Mapping) else []
        for value in values:
            if isinstance(value, str):
                return value
    return None


def is_lightning(saved: object) -> bool:
    """Return whether PyTorch Lightning saved a file."""
    return isinstance(saved, Mapping) and not saved.keys().isdisjoint(("pytorch-lightning_version", "hyper_parameters"))


def hyper_parameters(saved: object) -> Mapping[str, object]:
    """Return the arguments that Lightning saved; under the argument's name if the constructor takes one dict."""
    if not isinstance(saved, Mapping):
        return {}
    saved_arguments = saved.get("hyper_parameters")
    if isinstance(saved_arguments, UnreadObject):  # a subclass of dict, or the Namespace of argparse
        saved_arguments = saved_arguments.items or saved_arguments.state
    arguments = plain_dict(saved_arguments)
    name = saved.get("hparams_name")
    return {name: arguments} if arguments and isinstance(name, str) and name != "kwargs" else arguments


def plain_dict(value: object) -> dict[str, object]:
    """Return a copy with dicts, lists, numbers, strings and None only; other entries are left out."""
    items = value.items() if isinstance(value, Mapping) else ()
    return {key: _plain(entry) for key, entry in items if isinstance(key, str) and _is_plain(entry)}


def _plain(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return plain_dict(value) if isinstance(value, Mapping) else value


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(entry) for entry in value)
    return value is None or isinstance(value, Mapping | bool | int | float | str)
