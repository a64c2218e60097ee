"""`compress recipes`: list, show and copy the shipped recipes, or print their JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path

import click

from compressor.atomic_write import write_text
from compressor.cli.options import CommandGroup
from compressor.errors import RecipeError, did_you_mean


@click.group("recipes", cls=CommandGroup, no_args_is_help=False)
def recipes_group() -> None:
    """The shipped recipes: ls, show, cp; schema prints the JSON Schema."""


def _shipped(name: str) -> Path:
    from compressor.recipe import shipped_recipes

    known = shipped_recipes()
    if name not in known:
        hint = f"{did_you_mean(name, known)}one of: {', '.join(known)}"
        raise RecipeError("recipe/not-shipped", name, "no shipped recipe has this name", hint)
    return known[name]


@recipes_group.command("ls")
def list_recipes() -> None:
    """List the shipped recipes and the command that runs each."""
    from compressor.recipe import shipped_recipes

    known = shipped_recipes()
    width = max(map(len, known), default=0)
    for name, path in known.items():
        command = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()
        print(f"{name:{width}}  {command}")


@recipes_group.command("show")
@click.argument("name")
def show_recipe(name: str) -> None:
    """Print a shipped recipe."""
    print(_shipped(name).read_text(encoding="utf-8"), end="")


@recipes_group.command("cp")
@click.argument("name")
@click.argument("to", type=click.Path(path_type=Path), required=False)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def copy_recipe(name: str, to: Path | None, force: bool) -> None:
    """Copy a shipped recipe here, or TO a file or folder, to change it."""
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
def print_schema() -> None:
    """Print the JSON Schema of recipes, for editors that complete and check them."""
    from compressor.recipe import Recipe

    print(json.dumps(Recipe.json_schema(), indent=2))
