"""Labelled pictures in Parquet files, as the datasets library writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from compressor.errors import DataError
from compressor.training.splits import NAMES, Encoded, locate

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")


def parquet_split(base: Path, split: str, given: str | None) -> Encoded:
    """The split `train` or `val`: the file or glob `given`, else the one of that name in the folder `base`.

    Columns: `image` or `img` (a struct with `bytes`, or binary), `label` or `fine_label` (integers).
    """
    files = parquet_files(base, split, given)
    parts = [_read(path) for path in files]
    return Encoded(
        where=str(files[0].with_name(shards(files))),
        pictures=[picture for part in parts for picture in part.pictures],
        names=[name for part in parts for name in part.names],
        labels=np.concatenate([part.labels for part in parts]),
        classes=parts[0].classes,
    )


def parquet_files(base: Path, split: str, given: str | None) -> list[Path]:
    """Files of one split, in order. Raises DataError when there are none."""
    if given is not None and "*" not in given:
        return [locate(base, given, f"data.{split}")]
    stems = (stem for name in NAMES[split] for stem in (f"{name}.parquet", f"{name}-*.parquet"))
    patterns = [base / each for each in ((given,) if given else stems)]
    for pattern in patterns:
        if found := sorted(pattern.parent.glob(pattern.name)):
            return found
    wanted = " or ".join(pattern.name for pattern in patterns)
    raise DataError("data", f"data.{split}: {patterns[0].parent}", f"no {wanted}", f"name the file in data.{split}")


def shards(files: list[Path]) -> str:
    """A name for all of them: their own when it is one, else what the glob of their shards is."""
    return files[0].name if len(files) == 1 else files[0].name.split("-")[0] + "-*.parquet"


def _read(path: Path) -> Encoded:
    try:
        file = pq.ParquetFile(path)
        image = _column(file, path, IMAGE_COLUMNS)
        label = _column(file, path, LABEL_COLUMNS)
        table = file.read(columns=[image, label])
    except (pa.ArrowInvalid, OSError) as fault:
        raise DataError(
            "data", str(path), f"not a readable Parquet file ({fault})", "give a Parquet file of images and labels"
        ) from fault
    names = [f"{path.name} row {row}" for row in range(table.num_rows)]
    return Encoded(
        where=str(path),
        pictures=_pictures(table.column(image), path, image),
        names=names,
        labels=_labels(table.column(label), names, path, label),
        classes=_class_names(file, label),
    )


def _column(file: Any, path: Path, wanted: tuple[str, ...]) -> str:
    present = file.schema_arrow.names
    for name in wanted:
        if name in present:
            return name
    raise DataError(
        "data",
        str(path),
        f"no column {' or '.join(wanted)}, only {', '.join(present) or 'none at all'}",
        f"rename the column to {wanted[0]}",
    )


def _pictures(column: Any, path: Path, name: str) -> list[bytes | None]:
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise DataError(
            "data",
            f"{path}: column {name}",
            f"type {column.type}",
            "give encoded images: binary, or a struct with bytes",
        )
    pictures: list[bytes | None] = column.to_pylist()
    return pictures


def _labels(column: Any, names: list[str], path: Path, name: str) -> NDArray[np.int64]:
    if not pa.types.is_integer(column.type):
        raise DataError("data", f"{path}: column {name}", f"type {column.type}", "give integers from 0")
    if column.null_count:
        first = pc.index(column.is_null(), value=True).as_py()
        raise DataError(
            "data", f"{path}: {names[first]}", f"no label ({column.null_count} are missing)", "give every image a label"
        )
    labels: NDArray[np.int64] = column.to_numpy().astype(np.int64)
    return labels


def _class_names(file: Any, label: str) -> tuple[str, ...] | None:
    """Class names from the metadata the datasets library writes; None without them."""
    try:
        feature = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"][label]
        return tuple(feature["names"])
    except (KeyError, TypeError, ValueError):
        return None
