"""Where data lies: what `--data PATH` stands for, and whether what a recipe names is there at all."""

from __future__ import annotations

from pathlib import Path

from compressor.data.image_folder import split_folder
from compressor.data.parquet import parquet_files, shards
from compressor.data.splits import NAMES, find_data_file
from compressor.errors import DataError


def is_source(path: str) -> bool:
    """Whether `--data` names a source by itself, and not a folder that a source lies in."""
    return path == "digits" or path.startswith("torchvision:") or path.rpartition(":")[0].endswith(".py")


def check_paths(source: str, *, train: str | None, val: str | None, base: Path | None) -> None:
    """Raises DataError where the folders or files of a source are not there; opens none."""
    if source.startswith("torchvision:"):
        return  # downloads to where it is not
    base = find_data_file(Path(), str(base), "--data") if base else Path()
    match source:
        case "parquet":
            parquet_files(base, "train", train), parquet_files(base, "val", val)
        case "folder":
            split_folder(base, "train", train), split_folder(base, "val", val)
        case _ if (file := source.rpartition(":")[0]).endswith(".py"):
            find_data_file(base, file, "data.source")


def infer_source(path: str) -> dict[str, str]:
    """What `--data PATH` stands for: `source`, and for files `train` and `val` as absolute paths (globs allowed).

    A folder with Parquet files, a folder with train/ and val/, `file.py:factory`, `digits` or `torchvision:NAME`.
    """
    if path == "digits" or path.startswith("torchvision:"):
        return {"source": path}
    file, _, factory = path.rpartition(":")
    if is_source(path):
        return {"source": f"{find_data_file(Path(), file, '--data').resolve()}:{factory}"}
    where = find_data_file(Path(), path, "--data").resolve()
    if where.is_file():
        problem = "it is a single file" if where.suffix == ".parquet" else "it is neither a folder nor a Parquet file"
        raise DataError(
            "data/single-file",
            f"--data {path}",
            problem,
            "give the folder with both splits, or set data.train and data.val",
        )
    if any(where.glob("*.parquet")):
        return {"source": "parquet", **{split: _files(where, split) for split in NAMES}}
    if any((where / name).is_dir() for names in NAMES.values() for name in names):
        return {"source": "folder", **{split: str(split_folder(where, split, None)) for split in NAMES}}
    raise DataError(
        "data/unknown-layout",
        f"--data {path}",
        "the folder has neither *.parquet files nor train/",
        "provide train.parquet and test.parquet, or train/<class>/ and val/<class>/",
    )


def _files(folder: Path, split: str) -> str:
    files = parquet_files(folder, split, None)
    return str(files[0] if len(files) == 1 else folder / shards(files))
