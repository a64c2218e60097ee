"""Every shipped recipe that opens with a command on the embedded digits runs by that command, and verifies."""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path

import pytest

from compressor import cli
from compressor.recipe import shipped_recipes


def command(name: str) -> list[str]:
    """The words after `compress` in the first line of the recipe."""
    first = shipped_recipes()[name].read_text(encoding="utf-8").splitlines()[0]
    return shlex.split(first.removeprefix("# compress "))


EMBEDDED = [name for name in shipped_recipes() if command(name)[0] == "cifar:resnet8@digits"]


@pytest.mark.long
@pytest.mark.parametrize("name", EMBEDDED)
def test_its_command_runs_as_it_stands(name: str, tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        assert cli.run([*command(name), "--target", "none", "-q"]) == 0
        assert cli.run(["verify", "out", "-q"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["certificate"]["ok"]
    assert all(gate["ok"] for gate in report["gates"])
    assert report["slim"]["accuracy"] > 20, "ten classes: chance is 10 %"
    assert report["removed"]["weights"]["sparsity"] > 0
