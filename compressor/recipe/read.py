"""From a name or path on the command line to a checked recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from compressor.errors import RecipeError, did_you_mean
from compressor.recipe.overrides import override
from compressor.recipe.recipe_config import Recipe
from compressor.recipe.validation import explain_errors
from compressor.recipe.yaml_source import SourcePosition, parse_yaml

MAX_BYTES = 256 * 1024  # a thousand layer rules take a quarter of it


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name: from the wheel, or from a clone beside it."""
    package = Path(__file__).resolve().parents[1]
    folder = next((each for each in (package / "_recipes", package.parent / "recipes") if each.is_dir()), None)
    return dict(sorted((path.stem, path) for path in folder.glob("*.yaml"))) if folder else {}


def read_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or in that file, with each `key.path=value` of `overrides` put in its place.

    A shipped name wins over a file of that name; `./l1` is the file.

    Raises:
        RecipeError: carrying every fault at once.
    """
    source, text = _text(name_or_path)
    tree = parse_yaml(text, source)
    faults = list(tree.faults)
    for each in overrides:
        try:
            tree = override(tree, each)
        except RecipeError as fault:
            faults.append((SourcePosition(0, 0, fault.place), fault))
    if tree.data is None:
        raise RecipeError(
            "recipe/empty", source, "it is empty", "begin with a shipped recipe: compress recipes cp quickstart"
        )
    try:
        recipe = Recipe.model_validate(tree.data)
    except ValidationError as error:
        faults += explain_errors(error, tree, Recipe)
    raise_all(faults)
    return recipe


def raise_all(faults: Sequence[tuple[SourcePosition, RecipeError]]) -> None:
    """One error that carries all of these, in the order of their places; nothing where there are none."""
    if faults:
        first, *more = (fault for _, fault in sorted(faults, key=lambda each: (not each[0].line, each[0])))
        raise RecipeError(first.code, first.place, first.problem, first.hint, tuple(more))


def _text(name_or_path: str) -> tuple[str, str]:
    """What to call the recipe in messages, and its text."""
    shipped = shipped_recipes()
    path = shipped.get(name_or_path, Path(name_or_path))
    source = path.name if name_or_path in shipped else name_or_path
    try:
        return source, read_text(path, source)
    except FileNotFoundError:
        hint = f"{did_you_mean(name_or_path, shipped)}give a file, or one of: {', '.join(shipped)}"
        raise RecipeError("recipe/unknown-name", source, "it is neither a file nor a shipped recipe", hint) from None


def read_text(path: Path, source: str) -> str:
    """A short text file. Raises RecipeError, and FileNotFoundError where there is none."""
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
