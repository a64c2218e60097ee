"""The examples for GitHub and GitLab: their shell part runs, its options exist, and the exit code decides."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click
import pytest
import yaml

from compressor.cli.compress import compress_command

FOLDER = Path(__file__).parents[1] / ".ci"
SHIM = """#!/bin/sh
[ "$(basename "$0")" = pip ] || { echo "$@" >arguments; mkdir -p out; : >out/report.html; exit CODE; }
"""


def script(name: str) -> list[str]:
    content = yaml.safe_load((FOLDER / name).read_text())
    if name == "gitlab-ci.yml":
        assert content["compress"]["allow_failure"] == {"exit_codes": 9}
        return content["compress"]["script"]
    return [step["run"] for step in content["jobs"]["compress"]["steps"] if "run" in step]


@pytest.mark.parametrize("name", ["github-actions.yml", "gitlab-ci.yml"])
@pytest.mark.parametrize("code", [0, 2, 6, 7, 8, 9])
def test_a_missed_gate_fails_the_job_and_the_report_is_kept(tmp_path: Path, name: str, code: int) -> None:
    for program in ("pip", "compress"):
        (tmp_path / program).write_text(SHIM.replace("CODE", str(code)))
        (tmp_path / program).chmod(0o755)
    command = ["bash", "-ec", "\n".join(script(name))]
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    tolerated = code == 9 and name == "github-actions.yml"  # GitLab itself knows that 9 only warns
    assert (done.returncode == 0) == (code == 0 or tolerated)
    assert (tmp_path / "out" / "report.html").exists()
    arguments = (tmp_path / "arguments").read_text().split()
    with pytest.raises(click.exceptions.Exit):  # --help after the options: all of them are known
        compress_command.make_context("compress", [*arguments, "--help"])
