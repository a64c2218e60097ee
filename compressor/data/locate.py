"""Where the data of a run are: what `--data PATH` stands for, and whether the paths of a recipe exist.

A library is loaded only to look into files, so that a missing one is reported at once.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compressor.data.data_settings import AUTO, DataSettings
from compressor.data.paths import NAMES, find_data_file, parquet_files, shards, split_folder
from compressor.errors import DataError

IN_MEMORY = "memory"
"""The source of data that exist in memory only."""


def locate_data(settings: DataSettings | None, path: object) -> tuple[DataSettings, Path | None] | None:
    """Find the data of a run without reading them.

    Args:
        settings: The recipe's `data` block.
        path: The option `--data`: a source, or the folder that contains the recipe's source; or the data themselves.

    Returns:
        Settings with the source and its paths, and the folder they are relative to; None if no data are named.

    Raises:
        DataError: A file or folder does not exist.
    """
    base = None
    if settings is not None and settings.source == AUTO and path is None:
        return None
    if path is not None and not isinstance(path, str):
        settings = settings or DataSettings(IN_MEMORY)
        return replace(settings, source=IN_MEMORY, train=None, val=None, value=path), None
    if settings is not None and (path is None or (settings.has_own_paths and not is_source(path))):
        base = Path(path) if path else None
    elif path is not None:
        inferred = infer_source(path)
        settings = replace(settings or inferred, source=inferred.source, train=inferred.train, val=inferred.val)
    if settings is None:
        return None
    check_paths(settings.source, train=settings.train, val=settings.val, base=base)
    return settings, base


def is_source(path: str) -> bool:
    """Return whether `--data` names a source, and not a file or folder that contains one."""
    return path in ("digits", "noise") or path.startswith(("torchvision:", "noise:")) or _is_code(path)


def option_path(path: str) -> Path | None:
    """Return the file or folder that `--data` names; None for a source that needs none.

    Raises:
        DataError: It does not exist.
    """
    if is_source(path) and not _is_code(path):
        return None
    file = path.rpartition(":")[0] if _is_code(path) else path
    return find_data_file(Path(), file, "--data").resolve()


def check_paths(source: str, *, train: str | None, val: str | None, base: Path | None) -> None:
    """Check that the files or folders of a source exist, without opening them.

    Args:
        source: The source, as in `data.source`.
        train: Path or glob of the training split; None = found by its usual name.
        val: The same for the test split.
        base: The folder that paths are relative to; None = the current one.

    Raises:
        DataError: A file or folder is missing.
    """
    if source.startswith(("torchvision:", "noise")):
        return  # torchvision downloads missing files, and noise needs none
    base = find_data_file(Path(), str(base), "--data") if base else Path()
    match source:
        case "parquet":
            parquet_files(base, "train", train), parquet_files(base, "val", val)
        case "folder":
            split_folder(base, "train", train), split_folder(base, "val", val)
        case "samples" if train and train.endswith(".parquet"):
            parquet_files(base, "train", train)
        case "samples":
            find_data_file(base, train or "", "data.train")
        case _ if _is_code(source):
            find_data_file(base, source.rpartition(":")[0], "data.source")


def infer_source(path: str) -> DataSettings:
    """Return what `--data PATH` means: `source`, with `train` and `val` as absolute paths or globs.

    Data with labels are a folder with `train/<class>/` and `val/<class>/`, or with Parquet files that have a label
    column. Samples without labels are any other folder of images, a Parquet file or folder, or a file of arrays.
    `file.py:factory`, `digits`, `torchvision:NAME` and `noise` are sources themselves.
    """
    where = option_path(path)
    if _is_code(path):
        return DataSettings(f"{where}:{path.rpartition(':')[2]}")
    if where is None:
        return DataSettings(path)
    from compressor.data.array_files import ARRAY_FILES
    from compressor.data.open_samples import find_image_files

    if where.is_file():
        if where.suffix not in (*ARRAY_FILES, ".parquet"):
            known = ", ".join((*ARRAY_FILES, ".parquet"))
            raise DataError(
                "data/unknown-file",
                f"--data {path}",
                f"the file ends with {where.suffix or 'nothing'}",
                f"give a folder, or one of {known}",
            )
        return _samples(where)
    if any(where.glob("*.parquet")):
        return _parquet(where)
    train = next((where / name for name in NAMES["train"] if (where / name).is_dir()), None)
    unlabelled = train is None or not any(child.is_dir() for child in train.iterdir())
    if unlabelled and find_image_files(train or where):
        return _samples(train or where)
    if any((where / name).is_dir() for names in NAMES.values() for name in names):
        return DataSettings("folder", str(split_folder(where, "train", None)), str(split_folder(where, "val", None)))
    raise DataError(
        "data/unknown-layout",
        f"--data {path}",
        "the folder has neither *.parquet files nor images",
        "provide train/<class>/ and val/<class>/, train.parquet and test.parquet, or images without labels",
    )


def _parquet(folder: Path) -> DataSettings:
    """Labelled splits if the files have a label column, else samples, from the training files if there are any."""
    files = sorted(folder.glob("*.parquet"))
    train = next((file for file in files if file.name.startswith(NAMES["train"])), None)
    if train is None and not any(file.name.startswith(NAMES["val"]) for file in files):
        return _samples(folder)
    from compressor.data.parquet import has_labels

    if train is not None and not has_labels(train):
        return _samples(folder / shards(parquet_files(folder, "train", None)))
    return DataSettings("parquet", _files(folder, "train"), _files(folder, "val"))


def _samples(path: Path) -> DataSettings:
    return DataSettings("samples", str(path))


def _is_code(path: str) -> bool:
    return path.rpartition(":")[0].endswith(".py")


def _files(folder: Path, split: str) -> str:
    files = parquet_files(folder, split, None)
    return str(files[0] if len(files) == 1 else folder / shards(files))
