"""Names of modules and parameters, made of the names in a file."""

from __future__ import annotations

import re

from compressor.models.onnx_import.node import Node

_GENERATED = re.compile(r"onnx::\w+|_?val_\d+|\d+|.*(const_fold_opt|constant)\w*.*|.*/.*Constant.*", re.IGNORECASE)
_ENDS = (".weight", ".bias", "/kernel", "/weights", "/ReadVariableOp", ":0")


def is_generated(name: str) -> bool:
    """Return whether an exporter made up the name of a constant, so that it is no parameter of the original model."""
    return bool(_GENERATED.fullmatch(name))


def layer_name(weight: str, node: Node) -> str:
    """Name a layer.

    Args:
        weight: The name of its weight, which is best where the original model has it.
        node: The node, whose name is a path in many files.

    Returns:
        A dotted path such as `layer1.0.conv1`.
    """
    if weight and not is_generated(weight) and "::" not in weight:
        for end in reversed(_ENDS):
            weight = weight.removesuffix(end)
        return dotted(weight)
    path = module_path(node.name)
    return dotted(path or node.op.lower())


def module_path(name: str) -> str:
    """`/layer1/layer1.0/conv1/Conv` -> `layer1.0.conv1`: each part repeats the ones before it, or adds to them."""
    path = before = ""
    for part in name.strip("/").split("/")[:-1]:
        prefix = f"{before}." if before else ""
        path = f"{path}{part[len(before) :]}" if before and part.startswith(prefix) else f"{path}.{part}".lstrip(".")
        before = part
    return path


def dotted(name: str) -> str:
    """Replace every character that no Python name has; keep dots, and make dots of slashes."""
    parts = [re.sub(r"\W", "_", part) for part in name.replace("/", ".").split(".")]
    return ".".join(part for part in parts if part) or "layer"
