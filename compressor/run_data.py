"""Where the data of a run lie. Loads nothing heavy, so that a missing file is reported at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compressor.data.locate import check_paths, infer_source, is_source
from compressor.errors import RecipeError
from compressor.recipe import Recipe


@dataclass(frozen=True, slots=True)
class DataLocation:
    """A source of data; `train` and `val` are looked up in `base`, or in the current folder."""

    source: str
    train: str | None = None
    val: str | None = None
    base: Path | None = None


def find_recipe_data(recipe: Recipe, path: str | None) -> DataLocation | None:
    """Find the data of a run without reading any.

    Args:
        recipe: The checked recipe. Its own source is looked up in `path` if that is a folder.
        path: What `--data` names.

    Returns:
        Where the data lie, or None if none are named.

    Raises:
        DataError: A file or folder that is named does not exist.
    """
    settings = recipe.data
    inside = settings is not None and (settings.train or settings.val or ":" in settings.source)
    if settings is not None and (path is None or (inside and not is_source(path))):
        place = DataLocation(settings.source, settings.train, settings.val, Path(path) if path else None)
    elif path is not None:
        source = infer_source(path)
        place = DataLocation(source["source"], source.get("train"), source.get("val"))
    else:
        return None
    check_paths(place.source, train=place.train, val=place.val, base=place.base)
    return place


def require_recipe_data(recipe: Recipe, path: str | None) -> DataLocation | None:
    """Find the data of a run, which some methods cannot do without.

    Args:
        recipe: The checked recipe.
        path: What `--data` names.

    Returns:
        Where the data lie, or None if the run needs none and none are named.

    Raises:
        RecipeError: The method needs training images, and none are named.
        DataError: A file or folder that is named does not exist.
    """
    place = find_recipe_data(recipe, path)
    if place is None and recipe.method.needs_data:
        problem = f"no data are given, but {recipe.method.name} needs training images before it prunes"
        raise RecipeError("recipe/data-required", "data", problem, "give --data PATH, or add a data block")
    return place
