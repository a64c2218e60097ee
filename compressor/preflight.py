"""What can be checked before anything heavy is loaded: from the recipe, the paths and the names alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.models.missing_file import MODEL_FILES, check_model_files
from compressor.output.folder import check_output_free

if TYPE_CHECKING:
    from compressor.recipe import Recipe


def check_before_loading(model: str | None, recipe: Recipe, data: object, folder: Path, *, force: bool) -> None:
    """Report what is wrong with the paths of a run before its model is loaded.

    Args:
        model: The model as it was named; None = it is in memory.
        recipe: The checked recipe.
        data: The option `--data`, or data in memory.
        folder: The output folder.
        force: Whether an earlier result may be replaced.

    Raises:
        RecipeError: The folder must not be written, or the method needs data and none are named.
        ModelError: The file of the model does not exist.
        DataError: Data that are named do not exist.
    """
    from compressor.recipe.data_location import locate_recipe_data

    paths = [path for path in (model, data) if isinstance(path, str)]
    check_output_free(folder, force=force, inputs=paths)
    locate_recipe_data(recipe, data, required=True)
    if model is not None:
        check_model_files(model)


def default_folder(model: str, recipe: str) -> Path:
    """Name an output folder after a model and a recipe.

    Args:
        model: The model as it was named, such as `some/where/resnet56.pt`.
        recipe: The recipe as it was named, such as `l1.yaml`.

    Returns:
        A folder in the current one, such as `resnet56-l1`.
    """
    name = model.rstrip("/").rpartition("/")[2]
    name = next((name.removesuffix(ending) for ending in MODEL_FILES if name.endswith(ending)), name)
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{name}-{Path(recipe).stem}")
    return Path(safe.lstrip("-."))
