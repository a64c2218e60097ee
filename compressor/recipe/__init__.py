"""Recipes: what to do with a model, as a closed YAML schema, and how one is read, overridden and written out.

values -> retrain -> schema   what may be said          located -> overrides, faults -> read   where it was said
"""

from compressor.recipe.read import read_recipe, shipped_recipes
from compressor.recipe.schema import Recipe

__all__ = ["Recipe", "read_recipe", "shipped_recipes"]
