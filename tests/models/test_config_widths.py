"""Which fields of a configuration set which widths, and the configuration of a pruned module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from failures import raises_error
from torch import nn

from compressor.errors import ModelError
from compressor.models.hugging_face.transformers_widths import changed_config, find_config_steps, slim_config

CONFIG = {"hidden_sizes": [16, 32], "parts": {"width": 6}, "depths": [1, 1], "strides": [2, 2]}


def build(config: Mapping[str, Any]) -> nn.Module:
    """A bottleneck of a quarter of the first width, then a layer of the second, and one of its own width."""
    first, second = config["hidden_sizes"]
    width = config["parts"]["width"]
    layers = [
        nn.Linear(3, first),
        nn.Linear(first, first // 4),
        nn.Linear(first // 4, second),
        nn.Linear(second, width),
    ]
    return nn.Sequential(*layers * config["depths"][0])


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def test_entries_of_lists_are_fields_and_a_step_is_as_large_as_the_bottleneck_needs() -> None:
    steps = {next(iter(step.fields)): step for step in find_config_steps(build, CONFIG)}
    assert {name: step.fields[name] for name, step in steps.items()} == {
        "hidden_sizes[0]": 4,
        "hidden_sizes[1]": 1,
        "parts.width": 1,
    }
    assert steps["hidden_sizes[0]"].sizes == {
        "0.weight": {0: 4}, "0.bias": {0: 4}, "1.weight": {0: 1, 1: 4}, "1.bias": {0: 1}, "2.weight": {1: 1},
    }  # fmt: skip


def test_the_configuration_of_a_pruned_module_is_found() -> None:
    slim = {"hidden_sizes": [8, 27], "parts": {"width": 5}}
    steps = find_config_steps(build, CONFIG)
    found = slim_config(build, CONFIG, steps, shapes(build(CONFIG)), shapes(build(CONFIG | slim)))
    assert found == CONFIG | slim
    assert CONFIG["hidden_sizes"] == [16, 32]


def test_a_width_that_two_fields_set_is_shared_between_them() -> None:
    def product(config: Mapping[str, Any]) -> nn.Module:
        return nn.Sequential(
            nn.Linear(3, config["width"]), nn.Linear(config["width"], config["width"] * config["ratio"])
        )

    config = {"width": 8, "ratio": 4}
    steps = find_config_steps(product, config)
    assert [dict(step.fields) for step in steps] == [{"width": 1}, {"ratio": 1}]
    for slim in ({"width": 8, "ratio": 2}, {"width": 6, "ratio": 4}):
        assert slim_config(product, config, steps, shapes(product(config)), shapes(product(slim))) == slim


def test_widths_that_no_entry_can_say_are_refused() -> None:
    slim = shapes(build(CONFIG)) | {"1.weight": (3, 16), "1.bias": (3,), "2.weight": (32, 3)}
    with raises_error(ModelError, "model/config-cannot-say-widths"):
        slim_config(build, CONFIG, find_config_steps(build, CONFIG), shapes(build(CONFIG)), slim)


@pytest.mark.parametrize(
    ("field", "count", "value"), [("hidden_sizes[1]", -2, [16, 26]), ("hidden_sizes[0]", 1, [19, 32])]
)
def test_one_entry_of_a_list_changes(field: str, count: int, value: list[int]) -> None:
    assert changed_config(CONFIG, {field: 3}, count)["hidden_sizes"] == value
