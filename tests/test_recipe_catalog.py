"""What `compress recipes ls` says of each shipped recipe."""

from __future__ import annotations

import pytest

from compressor.recipe import shipped_recipes
from compressor.recipe.catalog import GROUPS, read_header, recipe_summaries

SUMMARIES = {summary.name: summary for summary in recipe_summaries()}


def test_every_recipe_is_listed_in_a_known_group_with_a_short_purpose() -> None:
    assert SUMMARIES.keys() == shipped_recipes().keys()
    assert {summary.group for summary in SUMMARIES.values()} == set(GROUPS)
    assert all(0 < len(summary.purpose) <= 46 for summary in SUMMARIES.values()), "the width of its column"
    places = [GROUPS.index(summary.group) for summary in SUMMARIES.values()]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("name", "data", "epochs", "iterations"),
    [
        ("quickstart", "included", 1, 0),
        ("l1", "optional", 10, 0),
        ("l1-cifar10", "required", 6, 0),
        ("tpp", "required", 20, 0),
        ("tpp-cifar10", "required", 120, 110_000),
        ("imp", "required", 2 + 4 * 10, 0),  # the numbers of the comment in the recipe
        ("lth", "required", 4 * 12, 0),
        ("ltr", "required", 2 + 4 * 10, 0),
        ("lrr", "required", 12 + 3 * 10, 0),
        ("earlybird", "required", 20, 0),  # its early epochs are taken off the retraining's
        ("earlycrop-s", "required", 180, 0),  # its early epochs are not
    ],
)
def test_what_a_recipe_needs_follows_from_its_steps(name: str, data: str, epochs: int, iterations: int) -> None:
    summary = SUMMARIES[name]
    assert (summary.data, summary.epochs, summary.iterations) == (data, epochs, iterations)


def test_a_header_ends_with_the_first_line_that_is_no_comment() -> None:
    text = "# compress m.pt -r x\n# for: one: two\n# group: Baselines\n#\n# note: text\nversion: 1\n# for: late\n"
    assert read_header(text) == {"for": "one: two", "group": "Baselines"}
