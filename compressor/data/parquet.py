"""Labelled images in Parquet files, as the datasets library writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from compressor.data.paths import parquet_files, shards
from compressor.data.sampling import ReadBlocks
from compressor.data.splits import EncodedImages, as_targets
from compressor.errors import DataError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")
WINDOW = 256 * 2**20  # bytes of row groups that a reader keeps in memory


def parquet_split(base: Path, split: str, given: str | None, *, labels: bool = True) -> EncodedImages:
    """Open a split: read its targets, and index its images, which are read batch by batch.

    The image column is `image` or `img` (a struct with `bytes`, or binary), the target column `label` or `fine_label`.

    Args:
        base: The folder of the data.
        split: `train` or `val`.
        given: File or glob under `base`; None = found by the usual name of the split.
        labels: Whether the targets are classes and so must be integers; otherwise they may be floats.

    Returns:
        The split.

    Raises:
        DataError: A file is missing or unreadable, or a column is missing or has another type.
    """
    files = parquet_files(base, split, given)
    targets: list[Tensor] = []
    names: list[str] = []
    for path in files:
        values, label = _targets(path, labels)
        targets.append(values)
        names += [f"{path.name} row {row}" for row in range(len(values))]
    pictures = RowGroups(files)
    return EncodedImages(
        where=str(files[0].with_name(shards(files))),
        pictures=pictures,
        names=names,
        targets=torch.cat(targets),
        classes=_class_names(files[0], label),
        blocks=pictures.blocks,
    )


class RowGroups:
    """The images of Parquet files in order. Rows are read by row group, and the latest groups are kept in memory."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        metadata = [_opened(path).metadata for path in files]
        self.groups = [(file, group) for file, data in enumerate(metadata) for group in range(data.num_row_groups)]
        groups = [metadata[file].row_group(group) for file, group in self.groups]
        ends = np.cumsum([0, *(group.num_rows for group in groups)], dtype=np.int64)
        self.size, largest = int(ends[-1]), max((group.total_byte_size for group in groups), default=0)
        self.blocks = ReadBlocks(ends[:-1], window=max(WINDOW // max(largest, 1), 1))
        self._read = lru_cache(self.blocks.window)(self._read_group)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: int) -> bytes | None:
        block = int(np.searchsorted(self.blocks.starts, row, side="right")) - 1
        return self._read(block)[row - int(self.blocks.starts[block])]

    def _read_group(self, block: int) -> list[bytes | None]:
        file, group = self.groups[block]
        opened = _opened(self.files[file])
        name = _column(opened, self.files[file], IMAGE_COLUMNS)
        # pyarrow's threads would not survive a fork.
        pictures: list[bytes | None] = _bytes_of(
            opened.read_row_group(group, columns=[name], use_threads=False).column(name)
        ).to_pylist()
        return pictures


def has_labels(path: Path) -> bool:
    """Return whether a Parquet file has a label column. Raises DataError if it is not readable."""
    return any(name in _opened(path).schema_arrow.names for name in LABEL_COLUMNS)


def _opened(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    problem = f"it is not a readable Parquet file ({error})"
    return DataError("data/unreadable-parquet", str(path), problem, "give a Parquet file of images and labels")


def _targets(path: Path, labels: bool) -> tuple[Tensor, str]:
    """Read the targets of one file; return them and the name of their column. Raises DataError for other types."""
    file = _opened(path)
    image = _column(file, path, IMAGE_COLUMNS)
    name = _column(file, path, LABEL_COLUMNS)
    kind = _bytes_type(file.schema_arrow.field(image).type)
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        hint = "store encoded images as binary, or as a struct with bytes"
        raise DataError("data/not-an-image-column", f"{path}: column {image}", f"its type is {kind}", hint)
    try:
        column = file.read(columns=[name]).column(name)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from error
    floats = pa.types.is_floating(column.type)
    if not pa.types.is_integer(column.type) and (labels or not floats):
        hint = "store integers from 0, or set data.task" if floats else "store integers from 0"
        raise DataError("data/not-a-target-column", f"{path}: column {name}", f"its type is {column.type}", hint)
    if column.null_count:
        first = pc.index(column.is_null(), value=True).as_py()
        problem = f"the label is missing ({column.null_count} in all)"
        raise DataError("data/missing-label", f"{path}: {path.name} row {first}", problem, "give every image a label")
    values = column.to_numpy()
    return (torch.from_numpy(values.astype(np.float32)) if floats else as_targets(values)), name


def _column(file: Any, path: Path, names: tuple[str, ...]) -> str:
    present = file.schema_arrow.names
    for name in names:
        if name in present:
            return name
    problem = f"it has no column {' or '.join(names)}; its columns are {', '.join(present) or 'none'}"
    raise DataError("data/no-such-column", str(path), problem, f"rename the column to {names[0]}")


def _bytes_type(kind: Any) -> Any:
    inner = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
    return kind.field(inner).type if inner >= 0 else kind


def _bytes_of(column: Any) -> Any:
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _class_names(path: Path, label: str) -> tuple[str, ...] | None:
    """Class names from the metadata that the datasets library writes, or None."""
    try:
        metadata = _opened(path).schema_arrow.metadata or {}
        return tuple(json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):
        return None
