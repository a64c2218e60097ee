"""Where nothing says how images were normalized in training, a warning gives the statistics that are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from compressor.recipe import read_recipe
from compressor.recipe.inputs import load_inputs
from compressor.run_log import RunLog

CODE = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))

input_size = [3, 8, 8]
"""


def warnings_of(model: str, data: Path | str, *settings: str) -> list[str]:
    warnings: list[str] = []

    def emit(event: str, fields: Mapping[str, object]) -> None:
        if event == "warning":
            warnings.append(str(fields["text"]))

    recipe = read_recipe("minutes", list(settings))
    load_inputs(model, recipe, str(data), RunLog(emit=emit), trust_pickle=False, needs_data=True)
    return warnings


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(CODE)
    return f"{tmp_path}/net.py:net"


def test_the_statistics_of_the_images_are_named(model: str, tmp_path: Path) -> None:
    pixels = np.zeros((20, 3, 8, 8), np.uint8)
    pixels[:10] = 255  # the mean of 0 and 1 is 0.5, and so is their standard deviation
    np.save(tmp_path / "x.npy", pixels)
    (warning,) = warnings_of(model, tmp_path / "x.npy")
    assert "data.mean=[0.5, 0.5, 0.5]" in warning
    assert "data.std=[0.5, 0.5, 0.5]" in warning
    assert warnings_of(model, tmp_path / "x.npy", "data.mean=[0, 0, 0]", "data.std=[1, 1, 1]") == []


def test_floats_are_taken_as_they_are(model: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 3, 8, 8), np.float32))
    assert warnings_of(model, tmp_path / "x.npy") == []


def test_a_model_with_known_statistics_needs_none() -> None:
    assert warnings_of("cifar:resnet8@digits", "digits") == []
