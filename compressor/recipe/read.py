"""Reading: from a name or path on the command line to a validated recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compressor.errors import RecipeError, did_you_mean
from compressor.recipe.former_keys import with_current_keys
from compressor.recipe.overrides import override
from compressor.recipe.recipe_config import Recipe
from compressor.recipe.validation import validate
from compressor.recipe.yaml_source import SourcePosition, parse_yaml

MAX_BYTES = 256 * 1024  # a thousand layer rules take a quarter of it


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes of the package by name, from the wheel or from a clone."""
    package = Path(__file__).resolve().parents[1]
    folder = next((path for path in (package / "_recipes", package.parent / "recipes") if path.is_dir()), None)
    return dict(sorted((path.stem, path) for path in folder.glob("*.yaml"))) if folder else {}


def read_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        name_or_path: The name of a shipped recipe, or a file. A shipped name wins over a file; `./l1` is the file.
        overrides: `key.path=value`, applied in this order.

    Returns:
        The recipe.

    Raises:
        RecipeError: The recipe is invalid. The error carries every fault.
    """
    source, text = _text(name_or_path)
    return parse_recipe(text, source, overrides)


def parse_recipe(text: str, source: str, overrides: Sequence[str] = ()) -> Recipe:
    """Validate the text of a recipe.

    Args:
        text: YAML, or JSON, which is YAML too.
        source: Its name in messages.
        overrides: `key.path=value`, applied in this order.

    Returns:
        The recipe.

    Raises:
        RecipeError: The recipe is invalid. The error carries every fault.
    """
    document = with_current_keys(parse_yaml(text, source))
    faults = []
    for assignment in overrides:
        try:
            document = override(document, assignment)
        except RecipeError as fault:
            faults.append((SourcePosition(0, 0, fault.place), fault))
    if document.data is None:
        problem, hint = "it is empty", "begin with a shipped recipe: compress recipes cp quickstart"
        raise RecipeError("recipe/empty", source, problem, hint)
    return validate(Recipe, document, faults)


def _text(name_or_path: str) -> tuple[str, str]:
    """The name of the recipe in messages, and its text."""
    shipped = shipped_recipes()
    path = shipped.get(name_or_path, Path(name_or_path))
    source = path.name if name_or_path in shipped else name_or_path
    try:
        return source, read_text(path, source)
    except FileNotFoundError:
        hint = f"{did_you_mean(name_or_path, shipped)}give a file, or one of: {', '.join(shipped)}"
        raise RecipeError("recipe/unknown-name", source, "it is neither a file nor a shipped recipe", hint) from None


def read_text(path: Path, source: str) -> str:
    """Read a short text file.

    Args:
        path: The file.
        source: Its name in messages.

    Returns:
        Its text.

    Raises:
        RecipeError: The file is too large, not UTF-8, or not readable.
        FileNotFoundError: There is no such file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise RecipeError(
                "recipe/too-large",
                source,
                f"it is larger than {MAX_BYTES // 1024} KB",
                "give a recipe, which is a short text file",
            )
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        raise RecipeError(
            "recipe/not-utf-8", source, f"it is not UTF-8 from byte {error.start}", "save it as UTF-8 text"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RecipeError(
            "recipe/not-readable", source, f"it cannot be read ({reason})", "give a readable file"
        ) from None
