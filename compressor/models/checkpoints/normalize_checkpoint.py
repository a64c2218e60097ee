"""Normalizes a state dict: plain float32 tensors under the names of layers, without wrappers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compressor.errors import ModelError
from compressor.listed import listed
from compressor.models.checkpoints.pickle_reader import UnreadObject
from compressor.models.checkpoints.select_weights import is_unusual_tensor

INSIDE = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")  # left by wrappers of single layers
COUNTERS = ("total_ops", "total_params", "n_averaged")  # left by profilers and weight averaging


def flatten_names(state: Mapping[str, object], where: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Keep the tensors, under names without the wrappers of single layers.

    Args:
        state: Names and values; those that are no tensors are left out.
        where: The file that the message names.

    Returns:
        The tensors, and notes on what was left out.

    Raises:
        ModelError: A tensor is of a kind that is not read.
    """
    notes: list[str] = []
    for name, value in state.items():
        if isinstance(value, UnreadObject) and is_unusual_tensor(value):
            problem = _UNUSUAL.get(value.name, f"is made by {value.name}, which makes no plain tensor")
            raise ModelError("model-file/unsupported-tensor", f"{where}: {name}", problem, _DENSE)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    other = [name for name in state if name not in tensors]
    if packed := next((name for name in other if "_packed_params" in name.split(".")), None):
        raise ModelError("model-file/unsupported-tensor", f"{where}: {packed}", "is quantized", _DENSE)
    counters = [name for name in tensors if name.rpartition(".")[2] in COUNTERS]
    tensors = {name: value for name, value in tensors.items() if name not in counters}
    for dropped, what in ((other, "entries that are no tensors"), (counters, "counters")):
        if dropped:
            notes.append(f"left out {len(dropped)} {what}: {listed(dropped, 3)}")
    tensors = _without_inner_wrappers(tensors, notes)
    return _fold_masks(tensors, notes), tuple(notes)


def _without_inner_wrappers(tensors: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = name
        for wrapper in INSIDE:
            short = short.replace(wrapper, "")
        renamed[short] = tensor
    if set(renamed) != set(tensors):
        notes.append(
            "stripped wrappers inside tensor names: " + ", ".join(w for w in INSIDE if any(w in n for n in tensors))
        )
    return renamed


def _fold_masks(tensors: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Multiply `weight_orig` by `weight_mask`, the pair that torch.nn.utils.prune leaves behind."""
    masked = [name[: -len("_orig")] for name in tensors if name.endswith("_orig")]
    masked = [name for name in masked if f"{name}_mask" in tensors]
    if not masked:
        return tensors
    notes.append(f"multiplied {len(masked)} masked weights by their masks")
    merged = {f"{name}{end}" for name in masked for end in ("_orig", "_mask")}
    kept = {name: value for name, value in tensors.items() if name not in merged}
    return kept | {name: tensors[f"{name}_orig"] * tensors[f"{name}_mask"] for name in masked}


def dense_float32(tensors: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Convert floating-point tensors to float32.

    Args:
        tensors: The state dict.
        where: The file that the message names.

    Returns:
        The tensors, and a note for each data type that was converted.

    Raises:
        ModelError: A tensor is not a plain dense tensor of floating-point weights.
    """
    converted: dict[str, Tensor] = {}
    others: dict[str, int] = {}
    for name, tensor in tensors.items():
        _refuse_unusual(name, tensor, where)
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            others[str(tensor.dtype)] = others.get(str(tensor.dtype), 0) + 1
        converted[name] = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
    notes = (f"converted {count} tensors from {kind} to float32" for kind, count in others.items())
    return converted, tuple(notes)


_META = "has a shape but no numbers (meta device)"
_DENSE = "save the dense float state dict of the model"
_UNUSUAL = {
    "torch._utils._rebuild_qtensor": "is quantized",
    "torch._utils._rebuild_sparse_tensor": "is sparse",
    "torch._utils._rebuild_meta_tensor_no_storage": _META,
}


def _refuse_unusual(name: str, tensor: Tensor, where: str) -> None:
    problem = None
    if tensor.is_quantized:
        problem = "is quantized"
    elif tensor.layout != torch.strided or tensor.is_nested:
        problem = "is sparse or nested"
    elif not tensor.is_floating_point() and not tensor.is_complex() and name.endswith(("weight", "bias")):
        problem = f"is {tensor.dtype}, not floating point (quantized?)"
    elif tensor.is_complex():
        problem = "holds complex numbers"
    elif type(tensor) not in (Tensor, nn.Parameter):
        problem = f"is a {type(tensor).__name__}, not a plain tensor"
    elif tensor.is_meta:
        problem = _META
    elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        problem = "claims more values than the file holds"
    if problem:
        raise ModelError("model-file/unsupported-tensor", f"{where}: {name}", problem, _DENSE)
