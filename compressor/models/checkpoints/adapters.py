"""Detects low-rank and other adapters, which have no effect on the weights until they are merged into them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from compressor.errors import ModelError
from compressor.listed import listed

_ADAPTERS = re.compile(r"\.?(lora_[A-Za-z_]+|hada_w[12]_[ab]|ia3_l|oft_[rs]|adalora_\w+)(\.|$)")


def refuse_adapters(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse a state dict with unmerged adapters such as LoRA.

    Args:
        tensors: The state dict.
        where: The file that the message names.

    Raises:
        ModelError: The state dict has tensors of adapters.
    """
    modules = adapters(tensors)
    if modules:
        problem = f"its adapters (LoRA) are not merged into the weights of {listed(modules, 3)}"
        raise ModelError(
            "checkpoint/unmerged-adapters", where, problem, "merge them with merge_and_unload() and save the state dict"
        )


def adapters(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the modules that have unmerged adapters."""
    matches = ((name, _ADAPTERS.search(name)) for name in tensors)
    return list(dict.fromkeys(name[: match.start()] for name, match in matches if match is not None))
