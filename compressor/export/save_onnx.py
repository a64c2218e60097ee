"""Writes ONNX models to files, with the weights of large ones beside them."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from compressor.core import ExportedModel
from compressor.errors import RecipeError
from compressor.export.parity import Parity
from compressor.export.refusals import ExportRefused, first_line
from compressor.file_digest import sha256

SINGLE_FILE = 2**31 - 2**24  # bytes of weights; protobuf is limited to 2 GiB


def save_checked(model: ir.Model, draft: Path) -> None:
    """Write a model, with its weights in a second file if they exceed 2 GB, and run the ONNX checker on it.

    Args:
        model: The model.
        draft: The file to write.

    Raises:
        ExportRefused: The ONNX checker reports an error.
    """
    save_unchecked(model, draft)
    problem = checker_error(draft)
    if problem is not None:
        raise ExportRefused(f"ONNX checker: {problem}")


def save_unchecked(model: ir.Model, draft: Path) -> None:
    """Write a model, with its weights in a second file if they exceed 2 GB.

    Args:
        model: The model.
        draft: The file to write.
    """
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    ir.save(model, draft, external_data=f"{draft.name}.data" if weights > SINGLE_FILE else None)


def checker_error(path: Path) -> str | None:
    """What the ONNX checker says of a file; None where it says nothing."""
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        return first_line(error)
    return None


def exported_file(path: Path, opset: int, parity: Parity, notes: tuple[str, ...]) -> ExportedModel:
    """Describe a file that is in its place.

    Args:
        path: The file.
        opset: Its operator set.
        parity: Its comparison with PyTorch.
        notes: How it was made.

    Returns:
        The file's facts, with its size and hash.
    """
    size = sum(file.stat().st_size for file in (path, *external_files(path)))
    return ExportedModel(path, opset, size, sha256(path), parity.max_abs_error, parity.ok, notes, parity.compared)


def external_files(path: Path) -> list[Path]:
    """The second file that `save_checked` may have written."""
    data = path.with_name(f"{path.name}.data")
    return [data] if data.exists() else []


@contextlib.contextmanager
def write_errors_named(path: Path) -> Iterator[None]:
    """Raise RecipeError if `path` cannot be written. A full disk is left to the caller, who may resume the run."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RecipeError(
            "output/not-writable",
            str(path),
            f"it cannot be written ({error.strerror or error})",
            "choose another --out",
        ) from error
