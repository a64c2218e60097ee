"""The files and folders of a split, by the names that the field gives them. Loads no library."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from compressor.errors import DataError

# The names of the split that is only reported on, the likeliest first: where both a validation and a test split are
# published, the labels of the test split often are not.
NAMES = {"train": ("train",), "val": ("validation", "val", "valid", "test")}


def find_data_file(base: Path, given: str, key: str) -> Path:
    """Find a file or folder.

    Args:
        base: The folder that `given` is relative to.
        given: Its path.
        key: The option or recipe key that names it.

    Returns:
        The path, which exists.

    Raises:
        DataError: It does not exist; the error names the most similar one.
    """
    path = base / given
    if path.exists():
        return path
    siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
    nearest = difflib.get_close_matches(path.name, siblings, n=1)
    folder = "give its folder with --data, or " if key.startswith("data.") else ""
    hint = f"did you mean {nearest[0]}?" if nearest else f"{folder}give an existing path as {key}"
    raise DataError("data/no-such-file", f"{key}: {path}", "the file or folder does not exist", hint)


def split_folder(base: Path, split: str, given: str | None) -> Path:
    """Find the folder of one split.

    Args:
        base: The folder of the data set.
        split: `train` or `val`.
        given: Its path, relative to `base`; None = by its usual names.

    Returns:
        The folder, which exists.

    Raises:
        DataError: There is no such folder.
    """
    if given is not None:
        return find_data_file(base, given, f"data.{split}")
    for name in NAMES[split]:
        if (base / name).is_dir():
            return base / name
    problem = f"it has no folder {' or '.join(NAMES[split])}"
    hint = f"set data.{split} to the folder of this split"
    raise DataError("data/no-split-folder", f"data.{split}: {base}", problem, hint)


def parquet_files(base: Path, split: str, given: str | None) -> list[Path]:
    """Find the Parquet files of one split.

    Args:
        base: The folder of the data set.
        split: `train` or `val`.
        given: A path or glob, relative to `base`; None = by the usual names.

    Returns:
        The files, in order.

    Raises:
        DataError: There are none.
    """
    if given is not None and "*" not in given:
        return [find_data_file(base, given, f"data.{split}")]
    stems = (stem for name in NAMES[split] for stem in (f"{name}.parquet", f"{name}-*.parquet"))
    patterns = [base / pattern for pattern in ((given,) if given else stems)]
    for pattern in patterns:
        if files := sorted(pattern.parent.glob(pattern.name)):
            return files
    problem = f"it has no {' or '.join(pattern.name for pattern in patterns)}"
    hint = f"set data.{split} to the file"
    raise DataError("data/no-split-file", f"data.{split}: {patterns[0].parent}", problem, hint)


def shards(files: Sequence[Path]) -> str:
    """Return one name for several files: that of the only one, or the glob of their shards."""
    return files[0].name if len(files) == 1 else files[0].name.split("-")[0] + "-*.parquet"
