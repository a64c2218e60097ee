"""Labelled images as files, with one folder per class."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from compressor.data.paths import split_folder
from compressor.data.splits import EncodedImages, as_targets
from compressor.errors import DataError


def folder_split(base: Path, split: str, given: str | None, known_classes: tuple[str, ...] = ()) -> EncodedImages:
    """List the images of a split in the layout `<split>/<class>/<image>`. Other files are ignored.

    Args:
        base: The folder of the data.
        split: `train` or `val`.
        given: The folder of the split under `base`; None = found by its usual name.
        known_classes: The classes of the other split. They are used if they include all classes of this split, which
            may then lack some of them.

    Returns:
        The split, with classes numbered in alphabetical order.

    Raises:
        DataError: The folder has no class folders, or a class has no images.
    """
    top = split_folder(base, split, given)
    folders = (child.name for child in top.iterdir() if child.is_dir() and not child.name.startswith("."))
    classes = tuple(sorted(folders))
    if not classes:
        hint = "arrange the images as <split>/<class>/<image>"
        raise DataError("data/no-class-folders", f"data.{split}: {top}", "it has no class folders", hint)
    is_subset = set(classes) <= set(known_classes)
    classes = known_classes if is_subset else classes
    extensions = set(Image.registered_extensions())
    images: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = sorted(file for file in (top / name).rglob("*") if file.suffix.lower() in extensions and file.is_file())
        if not files and not is_subset:
            hint = "add images, or remove the folder"
            raise DataError("data/empty-class-folder", str(top / name), "the class has no images", hint)
        images += files
        labels += [label] * len(files)
    names = [str(image.relative_to(top)) for image in images]
    return EncodedImages(str(top), images, names, as_targets(labels), classes)
