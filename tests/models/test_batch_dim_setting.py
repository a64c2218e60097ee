"""The recipe's `model.batch_dim`: auto, a dimension, none, or one for each input."""

from __future__ import annotations

import pytest

from compressor.errors import RecipeError
from compressor.recipe import read_recipe


@pytest.mark.parametrize(
    ("written", "batch_dim"), [("auto", "auto"), ("1", 1), ("null", None), ("[1, null]", (1, None))]
)
def test_recipes_hold_it(written: str, batch_dim: object) -> None:
    recipe = read_recipe("l1", [f"model.batch_dim={written}"])
    assert recipe.model.load_options()["batch_dim"] == batch_dim


@pytest.mark.parametrize("written", ["-1", "true", "first", "[]", "1.5"])
def test_what_is_no_dimension_is_refused_with_its_key(written: str) -> None:
    with pytest.raises(RecipeError) as refused:
        read_recipe("l1", [f"model.batch_dim={written}"])
    assert "model.batch_dim" in refused.value.place
