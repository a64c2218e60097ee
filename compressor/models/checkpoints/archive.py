"""Detects the format of a file by its content, before anything parses it, and refuses malicious archives."""

from __future__ import annotations

import os
import re
import struct
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Literal

from compressor.errors import ModelError, UntrustedFile
from compressor.models.missing_file import missing_model

Kind = Literal["safetensors", "zip", "legacy", "pickle"]

MAX_PICKLE_BYTES = 64 << 20  # compressed, of the structure of a checkpoint; arrays of NumPy are stored in it, too
MAX_EXPANSION = 8  # torch stores, it does not compress; a repacked archive shrinks by a tenth
SPARE_BYTES = 1 << 20  # small files may expand by more

# What torch.save wrote before it wrote zip files: a pickle of the number 0x1950a86a20f9469cfc6c.
_LEGACY = re.compile(rb"\x80.\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)
_KNOWN: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive, to be unpacked first"),
    (b"BZh", "a bzip2 archive, to be unpacked first"),
    (b"\xfd7zXZ", "an xz archive, to be unpacked first"),
    (b"7z\xbc\xaf", "a 7z archive, to be unpacked first"),
    (b"Rar!", "a RAR archive, to be unpacked first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive, to be unpacked first"),
    (b"\x89HDF", "an HDF5 file (Keras?)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"GGUF", "a GGUF file"),
    (b"\x7fELF", "a program"),
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself; run `git lfs pull`"),
)
_GIVE_STATE_DICT = "give a state dict saved by torch.save, or a .safetensors file"


def detect_format(path: Path) -> Kind:
    """Return how the tensors of a file are stored.

    Raises:
        ModelError: The file cannot be read, or is of a kind that holds no tensors.
    """
    size = _size(path)
    with open(path, "rb") as file:
        head = file.read(4096)
    if size == 0:
        raise ModelError("model-file/empty", str(path), "the file is empty", _GIVE_STATE_DICT)
    for magic, meaning in _KNOWN:
        if head.startswith(magic):
            raise ModelError("model-file/other-format", str(path), f"it is {meaning}", _GIVE_STATE_DICT)
    if path.suffix == ".py":
        raise ModelError(
            "model-file/python-code",
            str(path),
            "it is Python code",
            f"name the function that returns the model: {path}:factory",
        )
    if head[257:262] == b"ustar":
        raise ModelError(
            "model-file/tar-archive", str(path), "it is a tar archive", f"unpack it, or {_GIVE_STATE_DICT}"
        )
    if head.startswith(b"PK"):
        return "zip"
    if _is_safetensors(path, head, size):
        return "safetensors"
    if _LEGACY.match(head):
        return "legacy"
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(
            "model-file/web-page",
            str(path),
            "it is a web page, not a model; the download may have failed",
            _GIVE_STATE_DICT,
        )
    return "pickle"


def _size(path: Path) -> int:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise missing_model(path) from None
    except OSError as error:
        raise ModelError(
            "model-file/not-readable",
            str(path),
            f"it cannot be read ({_reason(error)})",
            "check the path and its permissions",
        ) from None
    if not path.is_file():
        problem = "it is a folder without plan.json" if path.is_dir() else "it is not a regular file"
        raise ModelError("model-file/not-a-file", str(path), problem, _GIVE_STATE_DICT)
    if not os.access(path, os.R_OK):
        raise ModelError(
            "model-file/permission-denied", str(path), "permission is denied", "make it readable for this user"
        )
    return size


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _is_safetensors(path: Path, head: bytes, size: int) -> bool:
    """Return whether 8 bytes of header length and JSON follow. A header longer than the file means truncation."""
    if len(head) < 9 or head[8:9] != b"{":
        return False
    (header,) = struct.unpack("<Q", head[:8])
    if header + 8 > size:
        problem = f"the safetensors file is truncated: its header needs {header:,} bytes, the file has {size:,}"
        raise ModelError("model-file/damaged", str(path), problem, "copy or download it again")
    return True


def entries_of(path: Path) -> list[str]:
    """Return the names in a zip archive; none if it is damaged.

    Raises:
        UntrustedFile: The archive is malicious.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        return []
    _refuse_bombs(path, entries)
    return [entry.filename for entry in entries]


def pickle_in_zip(path: Path) -> bytes:
    """Return the pickle that holds the structure of a torch.save archive, after checking the archive.

    Raises:
        UntrustedFile: The archive is malicious.
        ModelError: The archive is damaged or of another kind.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _refuse_bombs(path, entries)
            _refuse_other_kinds(path, [entry.filename for entry in entries])
            inner = [entry for entry in entries if PurePosixPath(entry.filename).name == "data.pkl"]
            if len(inner) != 1:
                problem = f"it is a zip archive with {len(inner)} entries named data.pkl instead of one"
                raise ModelError("model-file/not-a-torch-archive", str(path), problem, _GIVE_STATE_DICT)
            if inner[0].file_size > MAX_PICKLE_BYTES and inner[0].compress_type != zipfile.ZIP_STORED:
                problem = f"data.pkl has {inner[0].file_size:,} bytes, more than the structure of any checkpoint needs"
                raise UntrustedFile("untrusted-file/oversized-pickle", str(path), problem, "save the state dict alone")
            return archive.read(inner[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        problem = f"the torch archive is damaged or truncated ({error})"
        raise ModelError("model-file/damaged", str(path), problem, "copy or download it again") from None


def _refuse_bombs(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    unpacked, size = sum(entry.file_size for entry in entries), path.stat().st_size
    doubles = [name for name, times in Counter(entry.filename.lower() for entry in entries).items() if times > 1]
    outside = [entry.filename for entry in entries if _escapes(entry.filename)]
    if unpacked > MAX_EXPANSION * size + SPARE_BYTES:
        problem = f"it is a zip bomb, {size:,} bytes that unpack to {unpacked:,}"
    elif doubles:
        problem = f"{len(doubles)} archive entries share a name, such as {doubles[0]!r}"
    elif outside:
        problem = f"an archive entry leads out of the archive: {outside[0]!r}"
    else:
        return
    raise UntrustedFile(
        "untrusted-file/malformed-archive",
        str(path),
        f"{problem}, so nothing was read",
        "get the file from its author again",
    )


def _escapes(name: str) -> bool:
    return name.startswith("/") or "\\" in name or ".." in name.split("/") or ":" in name.split("/")[0]


def _refuse_other_kinds(path: Path, names: list[str]) -> None:
    tails = {name.partition("/")[2] for name in names}
    if "constants.pkl" in tails or any(tail.startswith("code/") for tail in tails):
        problem = "it is a TorchScript archive: a program, which is never run"
    elif "archive_format" in tails or any(tail.startswith("serialized_exported_program") for tail in (*tails, *names)):
        problem = "it is a torch.export archive (.pt2) from before PyTorch 2.9: a program, which is never run"
    elif names and all(name.endswith(".npy") for name in names):
        problem = "it is a NumPy archive (.npz)"
    else:
        return
    raise ModelError(
        "model-file/other-archive",
        str(path),
        problem,
        "give the state dict: torch.save(model.state_dict(), 'weights.pt')",
    )
