"""Recipes: what to do with a model, as a closed YAML schema, and how one is read, overridden and written out.

what may be said    values -> schedules -> original -> retrain -> schema
where it was said   located -> overrides, faults -> read
"""

from compressor.recipe.read import read_recipe, shipped_recipes
from compressor.recipe.recipe_config import GatesConfig, Recipe

__all__ = ["GatesConfig", "Recipe", "read_recipe", "shipped_recipes"]
