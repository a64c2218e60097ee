"""`compress recipes`: list, show and copy the shipped recipes, or print their JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path

import click

from compressor.atomic_write import write_text
from compressor.cli.help import CommandGroup
from compressor.errors import RecipeError, did_you_mean


@click.group("recipes", cls=CommandGroup, no_args_is_help=False)
def recipes_group() -> None:
    """List, print and copy the shipped recipes; print their JSON Schema."""


def _shipped(name: str) -> Path:
    """The file of a shipped recipe. Raises RecipeError if there is none of that name."""
    from compressor.recipe import shipped_recipes

    known = shipped_recipes()
    if name not in known:
        hint = f"{did_you_mean(name, known)}one of: {', '.join(known)}"
        raise RecipeError("recipe/not-shipped", name, "no shipped recipe has this name", hint)
    return known[name]


@recipes_group.command("ls")
def _list() -> None:
    """List the shipped recipes: purpose, data, epochs."""
    from compressor.recipe.catalog import GROUPS, recipe_summaries

    summaries = list(recipe_summaries())
    row = "{:19}  {:46}  {:8}  {}"
    print(row.format("recipe", "what for", "data", "epochs"))
    for group in GROUPS:
        print(f"\n{group}")
        for summary in summaries:
            if summary.group == group:
                iterations = f" + {summary.iterations:,} steps" if summary.iterations else ""
                print(row.format(f"  {summary.name}", summary.purpose, summary.data, f"{summary.epochs}{iterations}"))
    print("\ndata: images, given with --data. optional: without them nothing is retrained.")
    print("epochs: of all trainings, at most. compress recipes show NAME prints a recipe and its command.")


@recipes_group.command("show")
@click.argument("name")
def _show(name: str) -> None:
    """Print a shipped recipe."""
    print(_shipped(name).read_text(encoding="utf-8"), end="")


@recipes_group.command("cp")
@click.argument("name")
@click.argument("to", type=click.Path(path_type=Path), required=False)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def _copy(name: str, to: Path | None, force: bool) -> None:
    """Copy a shipped recipe here, or TO a file or folder."""
    shipped = _shipped(name)
    file = to or Path(shipped.name)
    file = file / shipped.name if file.is_dir() else file
    if not file.parent.is_dir():
        raise RecipeError(
            "recipe/no-such-folder", str(file), "the folder does not exist", "create it first, or choose another file"
        )
    if file.exists() and not force:
        raise RecipeError(
            "recipe/file-exists", str(file), "the file exists", "choose another file, or replace it with --force"
        )
    write_text(file, shipped.read_text(encoding="utf-8"))
    print(file)


@recipes_group.command("schema")
def _schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from compressor.recipe import Recipe

    print(json.dumps(Recipe.json_schema(), indent=2))
