"""Where the data of a run are, found before anything heavy is loaded."""

from __future__ import annotations

from pathlib import Path

from compressor.data.data_settings import DataSettings
from compressor.data.locate import locate_data, option_path
from compressor.errors import RecipeError
from compressor.recipe.recipe_config import Recipe


def check_data_option(data: str) -> None:
    """Check that what `--data` names exists, whatever the recipe says. Raises DataError."""
    option_path(data)


def locate_recipe_data(recipe: Recipe, data: object, *, required: bool) -> tuple[DataSettings, Path | None] | None:
    """Find the data of a run without reading them.

    Args:
        recipe: Its `data` block, if it has one, is looked up in `data`.
        data: The option `--data`, or the data themselves.
        required: Whether to refuse a recipe that needs samples if no data are named.

    Returns:
        As `locate_data`: settings and the folder that their paths are relative to; None if no data are named.

    Raises:
        RecipeError: The recipe needs data, and none are named.
        DataError: A file or folder that is named does not exist.
    """
    location = locate_data(recipe.data.to_settings() if recipe.data else None, data)
    if location is None and required and recipe.needs_data:
        problem = "no data are given, but the recipe needs samples"
        raise RecipeError("recipe/data-required", "data", problem, "give --data PATH, or set data.source in the recipe")
    return location
