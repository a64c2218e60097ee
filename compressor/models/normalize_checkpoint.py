"""From whatever a checkpoint file holds to one flat state dict: wrappers opened, prefixes peeled, each named."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compressor.errors import ModelError

PLAIN = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params")
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema")
PREFIXES = ("module", "_orig_mod", "_forward_module", "model", "net", "network", "backbone")
INSIDE = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")  # left by wrappers of single layers
COUNTERS = ("total_ops", "total_params", "n_averaged")  # left by profilers and weight averaging
_DEEPEST = 4


def open_wrappers(loaded: object, where: str) -> tuple[dict[str, object] | nn.Module, tuple[str, ...]]:
    """Follow the keys that hold the weights down to the state dict, or to a module saved whole."""
    notes: list[str] = []
    for _ in range(_DEEPEST):
        if isinstance(loaded, nn.Module):
            return loaded, tuple(notes)
        if not isinstance(loaded, Mapping):
            break
        key = _key_of_weights(loaded)
        if key is None:
            if any(isinstance(value, Tensor) for value in loaded.values()):
                return {str(name): value for name, value in loaded.items()}, tuple(notes)
            break
        averaged = [name for name in AVERAGED if name in loaded and name != key]
        kind = "the averaged (EMA) weights" if key in AVERAGED else "the weights"
        aside = f"; left aside the averaged copy in {averaged[0]!r}" if averaged else ""
        notes.append(f"took {kind} in {key!r}{aside}")
        loaded = loaded[key]
    raise ModelError(
        "model-file/no-tensors",
        where,
        f"it holds no tensors, but {_describe(loaded)}",
        "save the module's state_dict()",
    )


def _key_of_weights(loaded: Mapping[object, object]) -> object | None:
    for key in (*PLAIN, *AVERAGED):
        if _holds_weights(loaded.get(key)):
            return key
    if any(isinstance(value, Tensor) for value in loaded.values()):
        return None
    holders = [key for key, value in loaded.items() if _holds_weights(value)]
    return holders[0] if len(holders) == 1 else None


def _holds_weights(value: object) -> bool:
    if isinstance(value, nn.Module):
        return True
    if not isinstance(value, Mapping):
        return False
    return any(isinstance(each, Tensor | Mapping | nn.Module) for each in value.values())


def _describe(loaded: object) -> str:
    if isinstance(loaded, Mapping):
        keys = ", ".join(str(key)[:40] for key in list(loaded)[:5])
        return f"a dict with the keys {keys}" if keys else "an empty dict"
    return f"a {type(loaded).__name__}"


def flatten_names(state: Mapping[str, object], where: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Keep the tensors, under the names the module itself gives them; say what was peeled and dropped."""
    notes: list[str] = []
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    other = [name for name in state if name not in tensors]
    counters = [name for name in tensors if name.rpartition(".")[2] in COUNTERS]
    tensors = {name: value for name, value in tensors.items() if name not in counters}
    for dropped, what in ((other, "entries that are no tensors"), (counters, "counters")):
        if dropped:
            notes.append(f"left out {len(dropped)} {what}: {', '.join(dropped[:3])}{' ...' * (len(dropped) > 3)}")
    tensors = _peel(tensors, notes, where)
    tensors = _without_inner_wrappers(tensors, notes)
    return _fold_masks(tensors, notes), tuple(notes)


def _peel(tensors: dict[str, Tensor], notes: list[str], where: str) -> dict[str, Tensor]:
    while tensors:
        roots = {name.partition(".")[0] for name in tensors}
        if len(roots) == 1 and roots <= set(PREFIXES) and all("." in name for name in tensors):
            (root,) = roots
        elif "model" in roots and _mostly_under("model", tensors):
            root = "model"  # as Lightning saves it, with losses, metrics or a teacher beside the model
            outside = [name for name in tensors if not name.startswith("model.")]
            notes.append(f"left out {len(outside)} tensors outside 'model.': {', '.join(outside[:3])}")
        else:
            return tensors
        notes.append(f"peeled the prefix '{root}.'")
        tensors = {name[len(root) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{root}.")}
    raise ModelError("model-file/no-tensors", where, "it holds no tensors", "save the module's state_dict()")


def _mostly_under(root: str, tensors: Mapping[str, Tensor]) -> bool:
    """A prefix that holds nearly all tensors, where what is beside it can only be a helper of training."""
    helpers = ("criterion", "loss", "loss_fn", "train_", "val_", "test_", "metric", "teacher", "ema", "model_ema")
    beside = {name.partition(".")[0] for name in tensors} - {root}
    return all(each.startswith(helpers) for each in beside)


def _without_inner_wrappers(tensors: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = name
        for wrapper in INSIDE:
            short = short.replace(wrapper, "")
        renamed[short] = tensor
    if set(renamed) != set(tensors):
        notes.append("peeled wrappers inside names: " + ", ".join(w for w in INSIDE if any(w in n for n in tensors)))
    return renamed


def _fold_masks(tensors: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Multiply `weight_orig` by `weight_mask`, the pair that torch.nn.utils.prune leaves behind."""
    masked = [name[: -len("_orig")] for name in tensors if name.endswith("_orig")]
    masked = [name for name in masked if f"{name}_mask" in tensors]
    if not masked:
        return tensors
    notes.append(f"multiplied {len(masked)} masked weights by their masks")
    gone = {f"{name}{end}" for name in masked for end in ("_orig", "_mask")}
    kept = {name: value for name, value in tensors.items() if name not in gone}
    return kept | {name: tensors[f"{name}_orig"] * tensors[f"{name}_mask"] for name in masked}


def dense_float32(tensors: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Plain tensors on the CPU, floating point ones as float32. Raises ModelError for what is none of that."""
    converted: dict[str, Tensor] = {}
    others: dict[str, int] = {}
    for name, tensor in tensors.items():
        _refuse_unusual(name, tensor, where)
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            others[str(tensor.dtype)] = others.get(str(tensor.dtype), 0) + 1
        converted[name] = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
    notes = (f"converted {count} tensors from {kind} to float32" for kind, count in others.items())
    return converted, tuple(notes)


def _refuse_unusual(name: str, tensor: Tensor, where: str) -> None:
    found = None
    if tensor.is_quantized:
        found = "is quantised"
    elif tensor.layout != torch.strided or tensor.is_nested:
        found = "is sparse or nested"
    elif not tensor.is_floating_point() and not tensor.is_complex() and name.endswith(("weight", "bias")):
        found = f"is {tensor.dtype}, not floating point (quantised?)"
    elif tensor.is_complex():
        found = "holds complex numbers"
    elif type(tensor) not in (Tensor, nn.Parameter):
        found = f"is a {type(tensor).__name__}, not a plain tensor"
    elif tensor.is_meta:
        found = "has a shape but no values (meta device)"
    elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        found = "claims more values than the file holds"
    if found:
        raise ModelError(
            "model-file/unsupported-tensor", f"{where}: {name}", found, "save the model's dense float state dict"
        )
