"""The weights in a torch.export archive (.pt2), as numbers: its program is not run and nothing in it is unpickled.

Layout since PyTorch 2.9: `NAME/data/weights/model_weights_config.json` says of each name in the state dict which entry
beside it holds the bytes, and their type, sizes and strides.
"""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field, StringConstraints, ValidationError
from torch import Tensor

from compressor.errors import ModelError
from compressor.models.archive import entries_of

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
    """Whether a zip archive is of that layout. Raises UntrustedFile for archives made to harm."""
    return any(name.partition("/")[2] == _CONFIG for name in entries_of(path))


def read_exported(path: Path) -> dict[str, Tensor]:
    """Name in the state dict -> its tensor. Raises ModelError where the archive does not hold what it says."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = next(name for name in archive.namelist() if name.partition("/")[2] == _CONFIG)
            folder = PurePosixPath(config).parent
            weights = _Weights.model_validate_json(archive.read(config)).config
            held = {each.path_name for each in weights.values()}
            stored = {name: bytearray(archive.read(str(folder / name))) for name in held}
        return {name: _tensor(stored[each.path_name], each.tensor_meta) for name, each in weights.items()}
    except (zipfile.BadZipFile, ValidationError, KeyError, RuntimeError, OSError) as error:
        problem = f"the weights of the torch.export archive cannot be read ({str(error)[:200]})"
        hint = "export it again, or give the state dict: torch.save(model.state_dict(), 'weights.pt')"
        raise ModelError("model-file/damaged", str(path), problem, hint) from None


def _tensor(data: bytearray, meta: _Meta) -> Tensor:
    sizes, strides = ([each.as_int for each in numbers] for numbers in (meta.sizes, meta.strides))
    whole = torch.frombuffer(data, dtype=_TYPES[meta.dtype]) if data else torch.empty(0, dtype=_TYPES[meta.dtype])
    return whole.as_strided(sizes, strides, meta.storage_offset.as_int)
