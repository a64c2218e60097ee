"""Labelled pictures as files, a folder for each class."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from compressor.data.paths import split_folder
from compressor.data.splits import EncodedImages, as_targets
from compressor.errors import DataError


def folder_split(base: Path, split: str, given: str | None, known_classes: tuple[str, ...] = ()) -> EncodedImages:
    """The split `train` or `val`: the folder `given`, else the one of that name under `base`.

    Layout: `<split>/<class>/<picture>`; classes are numbered in alphabetical order, those of the other split where
    all of this one's are among them: it may have pictures of some of them only. Other files are left alone.
    """
    top = split_folder(base, split, given)
    classes = tuple(sorted(each.name for each in top.iterdir() if each.is_dir() and not each.name.startswith(".")))
    if not classes:
        raise DataError(
            "data/no-class-folders",
            f"data.{split}: {top}",
            "it has no class folders",
            "arrange the images as <split>/<class>/<image>",
        )
    some = set(classes) <= set(known_classes)
    classes = known_classes if some else classes
    known = set(Image.registered_extensions())
    pictures: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(each for each in (top / name).rglob("*") if each.suffix.lower() in known and each.is_file())
        if not found and not some:
            raise DataError(
                "data/empty-class-folder",
                str(top / name),
                "the class has no images",
                "add images, or remove the folder",
            )
        pictures += found
        labels += [label] * len(found)
    names = [str(picture.relative_to(top)) for picture in pictures]
    return EncodedImages(str(top), pictures, names, as_targets(labels), classes)
