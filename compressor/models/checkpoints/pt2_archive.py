"""Reads the weights in a torch.export archive (.pt2). Its program is not run, and nothing is unpickled.

Layout since PyTorch 2.9: `NAME/data/weights/model_weights_config.json` maps each name in the state dict to the entry
beside it that holds the bytes, and to their type, sizes and strides.
"""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field, StringConstraints, ValidationError
from torch import Tensor

from compressor.errors import ModelError
from compressor.models.checkpoints.archive import entries_of

_CONFIG = "data/weights/model_weights_config.json"
_TYPES = {  # ScalarType of torch.export's schema
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip


class _Number(BaseModel):
    as_int: Annotated[int, Field(ge=0)]


class _Meta(BaseModel):
    dtype: int
    sizes: list[_Number]
    strides: list[_Number]
    storage_offset: _Number


class _Weight(BaseModel):
    path_name: Annotated[str, StringConstraints(pattern=r"^\w+$")]
    use_pickle: Literal[False]
    tensor_meta: _Meta


class _Weights(BaseModel):
    config: dict[str, _Weight]


def is_exported(path: Path) -> bool:
    """Return whether a zip archive has that layout.

    Raises:
        UntrustedFile: The archive is malicious.
    """
    return any(name.partition("/")[2] == _CONFIG for name in entries_of(path))


def read_exported(path: Path) -> dict[str, Tensor]:
    """Return the state dict.

    Raises:
        ModelError: The archive is damaged, or does not hold the tensors that it lists.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config = next(name for name in archive.namelist() if name.partition("/")[2] == _CONFIG)
            folder = PurePosixPath(config).parent
            weights = _Weights.model_validate_json(archive.read(config)).config
            held = {weight.path_name for weight in weights.values()}
            stored = {name: bytearray(archive.read(str(folder / name))) for name in held}
        return {name: _tensor(stored[weight.path_name], weight.tensor_meta) for name, weight in weights.items()}
    except (zipfile.BadZipFile, ValidationError, KeyError, RuntimeError, OSError) as error:
        problem = f"the weights of the torch.export archive cannot be read ({str(error)[:200]})"
        hint = "export it again, or give the state dict: torch.save(model.state_dict(), 'weights.pt')"
        raise ModelError("model-file/damaged", str(path), problem, hint) from None


def _tensor(data: bytearray, meta: _Meta) -> Tensor:
    sizes, strides = ([number.as_int for number in numbers] for numbers in (meta.sizes, meta.strides))
    flat = torch.frombuffer(data, dtype=_TYPES[meta.dtype]) if data else torch.empty(0, dtype=_TYPES[meta.dtype])
    return flat.as_strided(sizes, strides, meta.storage_offset.as_int)
