"""Trees of tensors, which models take and return: a tensor, or a mapping, dataclass, tuple or list of trees.

And the tensors that modules hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves as pytree_leaves

Inputs = Tensor | tuple[Tensor, ...]
"""One batch of what a module takes: a tensor, or a tuple of them where it has several inputs."""


def named_tensors(module: nn.Module, *, every_name: bool = False) -> dict[str, Tensor]:
    """Name the parameters and buffers of a module, those too that its state dict leaves out.

    Sparse, quantized and nested ones are left out: no channel of theirs can be found, so that they stay as they are.

    Args:
        module: The module.
        every_name: Whether a tensor with several names has all of them; else the first.

    Returns:
        Name -> tensor.
    """
    unique = not every_name
    named = {
        **dict(module.named_parameters(remove_duplicate=unique)),
        **dict(module.named_buffers(remove_duplicate=unique)),
    }
    return {name: tensor for name, tensor in named.items() if is_strided(tensor)}


def is_strided(tensor: Tensor) -> bool:
    """Test whether a tensor is neither sparse, quantized, nested nor laid out by a library of its own."""
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested


def storage_ids(tree: object) -> set[int]:
    """Identify the storages in which the tensors of any nest of containers lie; sparse and nested ones have none."""
    tensors = (leaf for leaf in pytree_leaves(tree) if isinstance(leaf, Tensor))
    return {tensor.untyped_storage()._cdata for tensor in tensors if is_strided(tensor)}


def to_strided(tensor: Tensor) -> Tensor:
    """Return the entries of any tensor as one with strides; those of nested ones are padded with zeros."""
    if tensor.is_nested:
        return tensor.to_padded_tensor(0.0)
    if tensor.is_quantized:
        return tensor.dequantize()
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def tree_leaves(tree: object) -> list[Tensor]:
    """List every tensor of a tree, depth first, in the order of its containers."""
    return [tensor for _, tensor in _named_leaves(tree, "")]


def tree_names(tree: object) -> list[str]:
    """Name each leaf by its key or field, or by its index as in `output_0`; a single tensor is `output`."""
    names = [path or "output" for path, _ in _named_leaves(tree, "")]
    return [name if names.count(name) == 1 else f"{name}_{index}" for index, name in enumerate(names)]


def tree_map(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply a function to every tensor.

    Args:
        function: Maps one leaf to its replacement.
        tree: The tree; anything in it that is no tensor is kept.

    Returns:
        A tree of the same containers with the replaced leaves.
    """
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        items = {key: tree_map(function, value) for key, value in tree.items()}
        return type(tree)(**items) if is_dataclass(tree) else items
    if is_dataclass(tree) and not isinstance(tree, type):
        changes = {field.name: tree_map(function, getattr(tree, field.name)) for field in fields(tree) if field.init}
        return replace(tree, **changes)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):  # a named tuple
        return type(tree)(*(tree_map(function, value) for value in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(tree_map(function, value) for value in tree)
    return tree


def call_module(module: Callable[..., Any], inputs: Inputs) -> Any:
    """Run a module on a batch.

    Args:
        module: The module, or a function in its place.
        inputs: One batch (B, ...), or a tuple with one for each input of the module.

    Returns:
        What the module returns.
    """
    return module(*as_arguments(inputs))


def as_arguments(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return a batch as the arguments of a module, one tensor for each input."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def to_float32(tree: Any) -> Any:
    """Convert floating-point tensors to float32, because losses and metrics are not computed in reduced precision."""
    return tree_map(lambda leaf: leaf.float() if leaf.is_floating_point() else leaf, tree)


def is_flat(tree: object) -> bool:
    """Return whether the tree is a tensor or a flat sequence of tensors, which every ONNX exporter accepts."""
    parts = tree if isinstance(tree, list | tuple) else [tree]
    return all(isinstance(part, Tensor) for part in parts)


def _named_leaves(tree: object, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _named_leaves(value, f"{path}_{key}" if path else str(key))
    elif is_dataclass(tree):
        for field in fields(tree):
            yield from _named_leaves(getattr(tree, field.name), f"{path}_{field.name}" if path else field.name)
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _named_leaves(value, f"{path or 'output'}_{index}")


def hash_of(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Hash a text and named tensors.

    Args:
        text: Any text.
        tensors: Name -> tensor.

    Returns:
        A SHA-256 in hexadecimal digits.
    """
    digest = hashlib.sha256(text.encode())
    for name, tensor in tensors.items():
        digest.update(name.encode())
        numbers = to_strided(tensor.detach()).cpu().contiguous()
        digest.update(numbers.reshape(-1).view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    return digest.hexdigest()
