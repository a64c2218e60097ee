"""Recipes: a closed YAML schema for what to do with a model, and how a recipe is read, overridden and written.

The schema: fields, block -> method_block, data, optimizer, schedule, rewinding schedules, retrain, prune ->
recipe_config. Reading: yaml_source -> former_keys, overrides, validation -> read.
"""

from compressor.recipe.read import parse_recipe, read_recipe, shipped_recipes
from compressor.recipe.recipe_config import GatesConfig, Recipe

__all__ = ["GatesConfig", "Recipe", "parse_recipe", "read_recipe", "shipped_recipes"]
