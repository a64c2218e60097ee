"""Selects one flat state dict among the entries of a checkpoint file; entries of training are left out.

The keys of a file and the prefixes in the names of its tensors are levels of one tree. This module walks the keys;
`subtree` walks the prefixes, once the architecture is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compressor.errors import ModelError
from compressor.models.checkpoints.pickle_reader import UnreadObject

USUAL = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "network_weights", "module",
    "weights", "params", "student", "generator", "netG", "G",
)  # fmt: skip
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema", "ema_model", "g_ema", "teacher")
_DEEPEST = 5
_TRAINING_WORDS = frozenset({
    "optim", "optimizer", "optimizers", "opt", "sched", "scheduler", "schedulers", "lr", "scaler", "amp", "rng",
    "random", "loop", "loops", "callbacks", "hyper", "hparams", "config", "cfg", "args", "meta", "message",
    "criterion", "loss", "losses", "metric", "metrics", "train", "val", "test", "queue", "history",
})  # fmt: skip
_AVERAGED_WORDS = frozenset({"ema", "teacher", "momentum", "target", "shadow", "averaged"})


@dataclass(frozen=True, slots=True)
class Weights:
    """The state dict chosen from a file, or a module saved whole."""

    held: dict[str, object] | nn.Module
    notes: tuple[str, ...]
    aside: tuple[str, ...] = ()  # keys of other weights


def of_training(name: str) -> bool:
    """Return whether a key or a word of a prefix names something that only training uses."""
    return not _TRAINING_WORDS.isdisjoint(_words(name))


def is_averaged(name: str) -> bool:
    """Return whether a key or prefix names a running average of the weights, or the teacher of a distillation."""
    return not _AVERAGED_WORDS.isdisjoint(_words(name)) or name.rstrip(".").endswith("encoder_k")


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z]+", name.lower())


def select_weights(saved: object, where: str, wanted: str | None) -> Weights:
    """Choose the state dict of the model among all that a file holds.

    Args:
        saved: The content of the file.
        where: The file that the message names.
        wanted: A key such as `ema`, a path of keys, or a prefix of names; None takes the usual key.

    Returns:
        The state dict or module, and notes.

    Raises:
        ModelError: Nothing in the file is a state dict, or `wanted` is not in it.
    """
    if wanted is None:
        return _descend(saved, where, ())
    candidates = dict(_nodes(saved, ""))
    path = _match(wanted, list(candidates))
    if path is not None:
        return _descend(candidates[path], where, (f"took the weights in {path!r}, as model.weights says",))
    for state in (_descend(saved, where, ()).held, *candidates.values()):
        named = state.state_dict() if isinstance(state, nn.Module) else dict(_flat(state, ""))
        prefix = _match(wanted, _prefixes(named))
        if prefix is not None:
            start = f"{prefix}."
            part = {name.removeprefix(start): value for name, value in named.items() if name.startswith(start)}
            return Weights(part, (f"took the weights under {start!r}, as model.weights says",))
    held = _descend(saved, where, ()).held
    names = {} if isinstance(held, nn.Module) else held
    choices = [*candidates, *dict.fromkeys(name.partition(".")[0] for name in names if "." in name)]
    problem = f"it has no weights {wanted!r}"
    raise ModelError(
        "model-file/no-such-weights", where, problem, f"model.weights may be {', '.join(choices[:8]) or 'auto only'}"
    )


def _descend(saved: object, where: str, notes: tuple[str, ...]) -> Weights:
    """Follow the usual keys down to the state dict."""
    left = list[str]()
    for _ in range(_DEEPEST):
        if isinstance(saved, nn.Module):
            return Weights(saved, notes, tuple(left))
        items = _items(saved)
        holders = {key: value for key, value in items.items() if not of_training(key) and _holds_tensors(value)}
        key = _usual_key(items, holders)
        if key is None:
            named = dict(_flat(saved, ""))
            if any(_tensor_in(value) is not None or is_unusual_tensor(value) for value in named.values()):
                return Weights(named, notes, tuple(left))
            break
        others = [name for name in holders if name != key and not isinstance(holders[name], Tensor)]
        aside = f"; left aside {', '.join(map(repr, others))} (model.weights={others[0]} takes it)" if others else ""
        left += others
        kind = "the averaged (EMA) weights" if is_averaged(key) else "the weights"
        notes = (*notes, f"took {kind} in {key!r}{aside}")
        saved = holders[key]
    raise ModelError("model-file/no-tensors", where, _nothing_in(saved), "save the module's state_dict()")


def _usual_key(items: Mapping[str, object], holders: Mapping[str, object]) -> str | None:
    """Return the key to follow; None if `items` is a state dict itself."""
    nested = {key: value for key, value in holders.items() if _tensor_in(value) is None}
    for key in (*USUAL, *AVERAGED):
        if key in nested:
            return key
    if any(tensor.ndim > 0 for value in items.values() if (tensor := _tensor_in(value)) is not None):
        return None
    if any(is_unusual_tensor(value) for value in items.values()):
        return None
    plain = [key for key in nested if not is_averaged(key)]
    if len(plain) > 1:
        return None
    return next(iter(plain or nested), None)


def _items(value: object) -> dict[str, object]:
    """Return the entries of a dict, or of a list of dicts by their index."""
    items = value.items if isinstance(value, UnreadObject) else value
    if isinstance(items, list | tuple):
        return {str(place): entry for place, entry in enumerate(items) if isinstance(entry, Mapping)}
    return {str(key): entry for key, entry in items.items()} if isinstance(items, Mapping) else {}


def _tensor_in(value: object) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.ascontiguousarray(value))
    return None


def is_unusual_tensor(value: object) -> bool:
    """Return whether a value is a tensor of a kind that is not read, such as a sparse or quantized one."""
    return isinstance(value, UnreadObject) and value.name.startswith("torch._utils._rebuild_")


def _holds_tensors(value: object, depth: int = 0) -> bool:
    if isinstance(value, nn.Module) or _tensor_in(value) is not None or is_unusual_tensor(value):
        return True
    items = _items(value) if depth < _DEEPEST else {}
    return any(_holds_tensors(entry, depth + 1) for key, entry in items.items() if not of_training(key))


def _flat(value: object, prefix: str, depth: int = 0) -> Iterator[tuple[str, object]]:
    """Yield the entries of nested dicts, with keys joined by dots; not those of training, nor averages of others."""
    for key, entry in _items(value).items():
        nested = _items(entry)
        if nested and depth < _DEEPEST:
            if not of_training(key) and not is_averaged(key):
                yield from _flat(nested, f"{prefix}{key}.", depth + 1)
        elif not nested:
            tensor = _tensor_in(entry)
            yield f"{prefix}{key}", entry if tensor is None else tensor


def _nodes(value: object, path: str, depth: int = 0) -> Iterator[tuple[str, object]]:
    """Yield every dict or module below `value` that holds tensors, with its path of keys."""
    for key, entry in _items(value).items():
        if _tensor_in(entry) is None and not of_training(key) and _holds_tensors(entry) and depth < _DEEPEST:
            yield f"{path}{key}", entry
            yield from _nodes(entry, f"{path}{key}.", depth + 1)


def _prefixes(names: Mapping[str, object]) -> list[str]:
    ends = [(name, place) for name in names for place, letter in enumerate(name) if letter == "."]
    return list(dict.fromkeys(name[:place] for name, place in sorted(ends, key=lambda end: end[1])))


def _match(wanted: str, paths: list[str]) -> str | None:
    """Return the path that equals `wanted`, ends in it, or has it among the words of its last key."""
    wanted = wanted.rstrip(".")
    for fits in (
        lambda path: path == wanted,
        lambda path: path.endswith(f".{wanted}"),
        lambda path: wanted in path.rpartition(".")[2].split("_"),
    ):
        for path in paths:
            if fits(path):
                return path
    return None


def _nothing_in(saved: object) -> str:
    if isinstance(saved, Tensor):
        return "no tensors that have names, a single Tensor"
    items = _items(saved)
    if not items:
        return "no tensors, an empty dict" if isinstance(saved, Mapping) else f"no tensors, a {type(saved).__name__}"
    training = [key for key, value in items.items() if of_training(key) and isinstance(value, Mapping)]
    aside = f", beside {', '.join(training[:3])} of its training" if training else ""
    return f"no tensors of a model, a dict with the keys {', '.join(key[:40] for key in list(items)[:5])}{aside}"
