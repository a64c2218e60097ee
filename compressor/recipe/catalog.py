"""What each shipped recipe is for and what it needs, read from its header and derived from its steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compressor.recipe.build_steps import build_steps
from compressor.recipe.read import read_recipe, shipped_recipes
from compressor.recipe.recipe_config import Recipe
from compressor.steps.train import Train

GROUPS = (
    "First runs",
    "Channels of a trained network",
    "Channels before or early in training",
    "N:M sparsity",
    "Single weights, masked",
    "Baselines",
)
"""The groups in the order in which they are listed; every recipe names one of them in its header."""

DataNeed = Literal["none", "included", "optional", "required"]


@dataclass(frozen=True, slots=True)
class RecipeSummary:
    """One line of `compress recipes ls`."""

    name: str
    group: str
    purpose: str
    data: DataNeed
    epochs: int  # of all its trainings, at most
    iterations: int  # of trainings that are measured in iterations instead


def recipe_summaries() -> Iterator[RecipeSummary]:
    """Yield a summary of every shipped recipe, by group, then by name."""
    summaries = [_summary(name, path) for name, path in shipped_recipes().items()]
    yield from sorted(summaries, key=lambda summary: GROUPS.index(summary.group))


def read_header(text: str) -> dict[str, str]:
    """Return the fields `# key: value` of the comment that a recipe begins with."""
    header: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.removeprefix("# ").partition(": ")
        if not line.startswith("#"):
            break
        if colon and key in ("for", "group"):
            header[key] = value.strip()
    return header


def _summary(name: str, path: Path) -> RecipeSummary:
    header, recipe = read_header(path.read_text(encoding="utf-8")), read_recipe(name)
    epochs, iterations = _training_length(recipe)
    return RecipeSummary(name, header["group"], header["for"], _data_need(recipe, epochs), epochs, iterations)


def _data_need(recipe: Recipe, epochs: int) -> DataNeed:
    if recipe.data is not None:
        return "included" if recipe.data.source == "digits" else "required"
    if recipe.needs_data:
        return "required"
    return "optional" if epochs else "none"


def _training_length(recipe: Recipe) -> tuple[int, int]:
    """Epochs and iterations of all trainings of a run with data; a stopping rule may end one before."""
    trainings = [step for step in build_steps(recipe, retrain=True) if isinstance(step, Train)]
    return sum(step.epochs for step in trainings if not step.counts_toward_retraining), sum(
        step.iterations or 0 for step in trainings
    )
