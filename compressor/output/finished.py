"""A finished output folder, met again by `--resume` or `--force`: whether it is ours, and whose run it holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compressor.errors import RecipeError
from compressor.file_digest import sha256
from compressor.models.plan_record import PLAN
from compressor.output.folder import RECIPE, read_report
from compressor.output.gates import check_gates
from compressor.recipe import Recipe, read_recipe
from compressor.recipe.validation import show_value
from compressor.report.findings import Report


def finished_report(out: Path, source: str, recipe: Recipe, weights: str | None = None) -> Report | None:
    """Return the report of a run that has finished, for `--resume`. Its gates are judged again.

    Args:
        out: The output folder.
        source: The model, as it was named; of one in memory the name of its class.
        recipe: The checked recipe.
        weights: SHA-256 of the weights; None = of the file that `source` names, if it does.

    Returns:
        The content of report.json, or None if `out` is not a folder that a run has finished.

    Raises:
        RecipeError: `out` was made from other weights or by another recipe; it names the first key that differs.
        CompressorError: A gate failed; the error holds the report.
    """
    report = read_report(out)
    if report is None:
        return None
    before, now = (
        read_recipe(str(out / RECIPE)).model_dump(mode="json", by_alias=True),
        recipe.model_dump(mode="json", by_alias=True),
    )
    differences = list(_differences(before, now))
    if weights is None and Path(source).suffix != ".json" and Path(source).is_file():
        weights = sha256(Path(source))
    if weights is not None and report.get("model_sha256") not in (None, weights):
        differences.insert(0, ("SHA-256 of the weights", report["model_sha256"], weights))
    if report.get("model") != _model_name(source):
        differences.insert(0, ("model", report.get("model"), _model_name(source)))
    if differences:
        key, old, new = differences[0]
        problem = f"the folder was made with {key} = {show_value(old)}, not {show_value(new)}"
        hint = "repeat the command of that run, or choose another --out"
        raise RecipeError("resume/other-run", str(out), problem, hint)
    return check_gates(report)


def _model_name(source: str) -> str:
    """The name that a report gives to the model: for an output folder that of the model which it was made from."""
    plan = Path(source) / PLAN
    return str(json.loads(plan.read_bytes())["name"]) if plan.is_file() else source


def _differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, object, object]]:
    """Yield every key below `key` whose values differ, with both."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys((*before, *now)):
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else str(name))
    elif before != now:
        yield key, before, now
