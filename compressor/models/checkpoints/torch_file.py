"""Reads files of torch.save, and pickles of tensors or NumPy arrays, without running their code.

A pickled tensor is a call of a function of torch with a storage, an offset, sizes and strides. The few functions that
make plain tensors have a counterpart here; those of torch are not called.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import torch
from torch import Tensor

from compressor.models.checkpoints.archive import Kind, pickle_in_zip
from compressor.models.checkpoints.numpy_arrays import NUMPY_BUILDERS
from compressor.models.checkpoints.pickle_globals import Global
from compressor.models.checkpoints.pickle_reader import Builders, PickleContent, UnreadObject, read_pickles

_DTYPES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "Untyped": torch.uint8,
}  # fmt: skip
_LEGACY_PICKLES = 5  # magic number, version, machine, the object, the keys of its storages


@dataclass(frozen=True, slots=True)
class _Storage:
    data: torch.UntypedStorage
    dtype: torch.dtype


def read_torch_file(path: Path, kind: Kind) -> PickleContent:
    """Read a file of torch.save or pickle.

    Args:
        path: The file.
        kind: How the tensors are stored, as `detect_format` says.

    Returns:
        The content; the last of its values is the saved object.

    Raises:
        ModelError: The archive is damaged.
        UntrustedFile: The archive is malicious.
    """
    if kind == "zip":
        pickled = pickle_in_zip(path)
        with zipfile.ZipFile(path) as archive:
            return read_pickles(io.BytesIO(pickled), _builders({}), _ArchiveStorages(archive))
    with path.open("rb") as file:
        return _read_legacy(file) if kind == "legacy" else _read_plain(file)


class _ArchiveStorages:
    """Loads the storages beside the pickle in a zip archive, each once."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        names = archive.namelist()
        self.folder = next(PurePosixPath(name).parent for name in names if PurePosixPath(name).name == "data.pkl")
        self.archive, self.loaded = archive, dict[str, _Storage]()
        byteorder = str(self.folder / "byteorder")
        self.swapped = byteorder in names and archive.read(byteorder) == b"big"

    def __call__(self, persistent_id: object) -> _Storage:
        key, dtype, _ = _parts_of(persistent_id)
        if key not in self.loaded:
            try:
                data = bytearray(self.archive.read(str(self.folder / "data" / key)))
            except (zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(str(error)) from None
            if self.swapped and dtype.itemsize > 1:
                raise ValueError("it was saved on a big-endian machine")
            self.loaded[key] = _Storage(_bytes(data), dtype)
        return self.loaded[key]


def _bytes(data: bytearray) -> torch.UntypedStorage:
    return torch.frombuffer(data, dtype=torch.uint8).untyped_storage() if data else _space(0)


def _space(size: int) -> torch.UntypedStorage:
    return torch.empty(size, dtype=torch.uint8).untyped_storage()


def _parts_of(persistent_id: object) -> tuple[str, torch.dtype, int]:
    """Key, data type and number of elements of a storage."""
    match persistent_id:
        case ("storage", Global(qualname=kind), key, _, int(count), *_) if count >= 0:
            return str(key), _DTYPES.get(kind.removesuffix("Storage"), torch.uint8), count
    raise ValueError("a persistent id that is no storage")


def _read_legacy(file: BinaryIO) -> PickleContent:
    """The format before PyTorch 1.6: five pickles, then the storages one after the other."""
    start = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(start)
    storages: dict[str, _Storage] = {}

    def announce(persistent_id: object) -> object:
        if isinstance(persistent_id, tuple) and persistent_id[:1] == ("module",):
            return persistent_id[1]  # the class, beside its source code
        key, dtype, count = _parts_of(persistent_id)
        if count * dtype.itemsize > size:
            raise ValueError("a storage is larger than the file")
        return storages.setdefault(key, _Storage(_space(count * dtype.itemsize), dtype))

    reading = read_pickles(file, _builders({}), announce, pickles=_LEGACY_PICKLES)
    if reading.fault:
        return reading
    *_, machine, saved, keys = reading.values
    fault = None
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        fault = "it was saved on a big-endian machine"
    elif not isinstance(keys, list) or not all(_fill_storage(file, storages.get(str(key))) for key in keys):
        fault = "damaged: it is cut short"
    return PickleContent((saved,), reading.calls, reading.objects, fault)


def _fill_storage(file: BinaryIO, storage: _Storage | None) -> bool:
    if storage is None:
        return False
    count = int.from_bytes(file.read(8), "little", signed=True)
    size = storage.data.nbytes()
    if count * storage.dtype.itemsize != size:
        return False
    data = file.read(size)
    if size and len(data) == size:
        storage.data.copy_(_bytes(bytearray(data)))
    return len(data) == size


def _read_plain(file: BinaryIO) -> PickleContent:
    """A pickle that torch.save did not write. Its tensors hold their storages as files of torch.save."""
    nested: list[PickleContent] = []

    def load_from_bytes(data: object) -> object:
        if not isinstance(data, bytes):
            raise ValueError("a storage that is no bytes")
        nested.append(_read_legacy(io.BytesIO(data)))
        if nested[-1].fault:
            raise ValueError(nested[-1].fault)
        return nested[-1].values[-1]

    reading = read_pickles(file, _builders({"torch.storage._load_from_bytes": load_from_bytes}), _no_storage)
    unclear = ("torch.storage._load_from_bytes",) if any(inner.fault for inner in nested) else ()
    calls = (*reading.calls, *(name for inner in nested for name in inner.calls), *unclear)
    return PickleContent(reading.values, calls, reading.objects, reading.fault, reading.hostile)


def _no_storage(persistent_id: object) -> object:
    del persistent_id
    raise ValueError("a persistent id, which only torch.save writes")


def _builders(more: Builders) -> Builders:
    legacy = {f"torch.{kind}Tensor": partial(_empty, dtype) for kind, dtype in _DTYPES.items()}
    return {**_BUILDERS, **NUMPY_BUILDERS, **legacy, **more}


def _tensor(storage: object, offset: int, sizes: Sequence[int], strides: Sequence[int], *_: object) -> object:
    """Make a tensor. Raises ValueError if it would reach beyond its storage."""
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without a storage")
    return _view(storage.data, storage.dtype, offset, sizes, strides)


def _view(
    data: torch.UntypedStorage, dtype: torch.dtype, offset: int, sizes: Sequence[int], strides: Sequence[int]
) -> Tensor:
    if len(sizes) != len(strides) or min((offset, *sizes, *strides)) < 0:
        raise ValueError("a tensor of impossible sizes")
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if all(sizes) and (last + 1) * dtype.itemsize > data.nbytes():
        raise ValueError("a tensor that claims more numbers than the file holds")
    return torch.empty(0, dtype=dtype).set_(data, offset, tuple(sizes), tuple(strides))


def _tensor_v3(
    storage: object, offset: int, sizes: Sequence[int], strides: Sequence[int], grad: bool, hooks: object,
    dtype: object, *_: object,
) -> object:  # fmt: skip
    """Make a tensor of a type without its own storage class, such as float8."""
    kind = getattr(torch, dtype.qualname, None) if isinstance(dtype, Global) and dtype.module == "torch" else None
    if not isinstance(storage, _Storage) or not isinstance(kind, torch.dtype):
        raise ValueError("a tensor of an unknown type")
    return _view(storage.data, kind, offset, sizes, strides)


def _from_type(function: object, cls: object, args: tuple[object, ...], state: object) -> object:
    """Make a tensor without its attributes; a tensor of another class is not read."""
    del state
    plain = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter")
    name = cls.name if isinstance(cls, Global) else "?"
    if name not in plain or not isinstance(function, Global) or function.name not in _BUILDERS:
        return UnreadObject(f"torch._utils._rebuild_{name}", args)
    return _BUILDERS[function.name](*args)


def _first(value: object, *_: object) -> object:
    return value


def _empty(dtype: torch.dtype, *sizes: int) -> Tensor:
    return torch.empty(sizes, dtype=dtype)


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes that protocol 2 wrote as text."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes written as {encoding}")
    return text.encode("latin1")


def _new_dict(*pairs: object) -> dict[object, object]:
    match pairs:
        case (dict() as items,):
            return dict(items)
        case (list() as items,):
            return dict(items)
    return {}  # of a defaultdict: its factory is not needed


def _new_bytearray(data: object = b"", encoding: str = "latin1") -> bytearray:
    content = _encode(data, encoding) if isinstance(data, str) else data
    if not isinstance(content, bytes | bytearray):
        raise ValueError("a bytearray without its content")
    return bytearray(content)


def _new_set(items: list[object]) -> set[object]:
    return set(items)


_BUILDERS: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.nn.parameter.Parameter": _first,
    "torch.Size": tuple,
    "collections.OrderedDict": _new_dict,
    "collections.Counter": _new_dict,
    "collections.defaultdict": _new_dict,
    "builtins.dict": _new_dict,
    "builtins.set": _new_set,
    "builtins.bytearray": _new_bytearray,
    "builtins.complex": complex,
    "_codecs.encode": _encode,
}
