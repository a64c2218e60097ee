"""Where the data of a run are, for the check that comes before anything heavy is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import RecipeError
from compressor.recipe.recipe_config import Recipe

if TYPE_CHECKING:
    from compressor.data.settings import DataSettings


def locate_recipe_data(
    recipe: Recipe, data_path: str | None, *, required: bool
) -> tuple[DataSettings, Path | None] | None:
    """Find the data of a run without reading them.

    Args:
        recipe: The recipe, with its `data` block.
        data_path: The option `--data`.
        required: Whether a method that needs training images is refused without them.

    Returns:
        Settings with the source and its paths, and the folder they are relative to; None where no data are named.

    Raises:
        RecipeError: The method needs data, and none are named.
        DataError: There is nothing at the named place.
    """
    if recipe.data is None and data_path is None:
        if required and recipe.method.needs_data:
            problem = f"no data are given, but {recipe.method.name} needs training images before it prunes"
            raise RecipeError("recipe/data-required", "data", problem, "give --data PATH, or add a data block")
        return None
    from compressor.data.locate import locate_data  # loads torch, which a run without data may not need yet

    return locate_data(recipe.data.to_settings() if recipe.data else None, data_path)
