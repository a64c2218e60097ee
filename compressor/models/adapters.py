"""Low-rank and other adapters, which change the weights beside them only once they are merged."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from compressor.errors import ModelError

_ADAPTERS = re.compile(r"\.?(lora_[A-Za-z_]+|hada_w[12]_[ab]|ia3_l|oft_[rs]|adalora_\w+)(\.|$)")


def refuse_adapters(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises ModelError where adapters such as LoRA stand beside the weights they change."""
    modules = adapters(tensors)
    if modules:
        layers = f"{', '.join(modules[:3])}{' ...' * (len(modules) > 3)}"
        found = f"its adapters (LoRA) are not merged into the weights of {layers}"
        raise ModelError(
            "checkpoint/unmerged-adapters", where, found, "merge them with merge_and_unload() and save the state dict"
        )


def adapters(tensors: Mapping[str, Tensor]) -> list[str]:
    """The modules that have low-rank or other adapters which were never merged into their weights."""
    found = ((name, _ADAPTERS.search(name)) for name in tensors)
    return list(dict.fromkeys(name[: match.start()] for name, match in found if match is not None))
