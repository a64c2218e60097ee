"""Python use: `compressor.compress` and `compressor.plan`, for modules in memory and what the command line takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from compressor.core import EventSink, LoadedModel
from compressor.errors import CompressorError
from compressor.notebook import in_notebook, notebook_progress, page_in_frame
from compressor.output.folder import PAGE
from compressor.preflight import check_before_loading, default_folder
from compressor.progress import progress_reporter
from compressor.recipe import Recipe, parse_recipe, read_recipe
from compressor.recipe.device_config import find_target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.report.plan_result import Plan


class RunReport(dict[str, Any]):
    """report.json as a dict. A notebook shows it as the page report.html.

    Attributes:
        folder: The output folder, which holds the page, the ONNX files and the weights.
    """

    def __init__(self, content: Mapping[str, Any], folder: Path) -> None:
        super().__init__(content)
        self.folder = folder

    def __str__(self) -> str:
        """What the command line prints."""
        from compressor.report.terminal import report_text

        return report_text(self, self.folder)

    def _repr_html_(self) -> str:
        return page_in_frame((self.folder / PAGE).read_text(encoding="utf-8"))


class Compressed(NamedTuple):
    """What `compress` returns."""

    module: nn.Module
    """The slim module in float32 and eval mode, on the CPU."""
    report: RunReport


def compress(
    model: str | Path | nn.Module,
    recipe: str | Path | Mapping[str, object] | Recipe = "auto",
    *,
    data: object = None,
    out: str | Path | None = None,
    overrides: Mapping[str, object] | None = None,
    example_inputs: Tensor | Sequence[Tensor] | None = None,
    force: bool = False,
    resume: bool = False,
    trust_pickle: bool = False,
    progress: bool = True,
) -> Compressed:
    """Compress a model: prune, recover, prove, export to ONNX, measure and report.

    The same run as `compress MODEL --recipe RECIPE`, with the same proofs and files.

    Args:
        model: A module in memory, which does not change; or a checkpoint, a folder or a name, as on the command line.
        recipe: The name of a shipped recipe, a file, its content as a dict, or a Recipe.
        data: What `--data` takes. Or, in memory, splits with labels `(train, val)`, each a Dataset, a DataLoader or
            `(images, labels)`; or samples without labels: a tensor or array (N, ...), a mapping of them by input name,
            a DataLoader, or any iterable of inputs.
        out: The output folder; None = MODEL-RECIPE, here.
        overrides: Keys of the recipe to replace: `{"prune.target.macs": "40%", "bench.target": "none"}`.
        example_inputs: For a module: a batch for each of its inputs. Without, `model.input` of the recipe is used, or
            the first of the usual image sizes that runs.
        force: Whether to replace the folder of an earlier run.
        resume: Whether to continue an interrupted run; of a finished one the result is returned.
        trust_pickle: Whether to unpickle files that may contain code.
        progress: Whether to show progress: a bar in a notebook and on a terminal, lines elsewhere.

    Returns:
        The slim module and the report: `slim, report = compress(...)`.

    Raises:
        CompressorError: As on the command line, with its exit code. If a gate fails, `report` of the error is the
            report, and the folder is kept.
    """
    from compressor import pipeline
    from compressor.models.saved_model import load
    from compressor.output.finished import finished_report
    from compressor.run_options import RunOptions
    from compressor.tensors import hash_of

    checked = as_recipe(recipe, overrides or {})
    folder = Path(out) if out is not None else default_folder(_name(model), _recipe_name(recipe))
    module = None if isinstance(model, str | Path) else model
    report = None
    try:
        if resume:
            weights = None if module is None else hash_of("", module.state_dict())
            report = finished_report(folder, _name(model), checked, weights)
        if report is None:
            check_before_loading(_source(model), checked, _data(data), folder, force=force)
            source = str(model) if module is None else loaded_module(module, checked, example_inputs)
            with shown_progress(progress) as emit:
                options = RunOptions(_data(data), resume, force, trust_pickle, emit)
                report = pipeline.compress_model(source, checked, folder, options)
    except CompressorError as error:
        if isinstance(error.report, dict):
            error.report = RunReport(error.report, folder)
        raise
    slim = load(folder, module)
    return Compressed(slim, RunReport(report, folder))


def plan(
    model: str | Path | nn.Module,
    recipe: str | Path | Mapping[str, object] | Recipe = "auto",
    *,
    data: object = None,
    overrides: Mapping[str, object] | None = None,
    example_inputs: Tensor | Sequence[Tensor] | None = None,
    trust_pickle: bool = False,
    progress: bool = True,
) -> Plan:
    """Predict what `compress` would remove and gain, without training.

    Args:
        model: As `compress` takes it.
        recipe: As `compress` takes it.
        data: As `compress` takes it.
        overrides: As `compress` takes them.
        example_inputs: As `compress` takes them.
        trust_pickle: Whether to unpickle files that may contain code.
        progress: Whether to show progress.

    Returns:
        What `compress plan --json` prints.

    Raises:
        CompressorError: As on the command line.
    """
    from compressor.commands.plan import plan_run

    checked = as_recipe(recipe, overrides or {})
    source = str(model) if isinstance(model, str | Path) else loaded_module(model, checked, example_inputs)
    with shown_progress(progress) as emit:
        return plan_run(source, checked, data=_data(data), trust_pickle=trust_pickle, emit=emit)


def as_recipe(recipe: str | Path | Mapping[str, object] | Recipe, overrides: Mapping[str, object]) -> Recipe:
    """Read and check a recipe in any of its forms.

    Args:
        recipe: A name, a file, its content as a dict, or a Recipe.
        overrides: Dotted keys to replace, with their values.

    Returns:
        The recipe.

    Raises:
        RecipeError: It is invalid; the error carries every fault.
    """
    assignments = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    match recipe:
        case Recipe() if not assignments:
            checked = recipe
        case Recipe():
            checked = parse_recipe(recipe.to_yaml(), "recipe", assignments)
        case Mapping():
            checked = parse_recipe(json.dumps(recipe), "recipe", assignments)
        case _:
            checked = read_recipe(str(recipe), assignments)
    find_target(checked.bench.target, None)
    return checked


def loaded_module(module: nn.Module, recipe: Recipe, example_inputs: Tensor | Sequence[Tensor] | None) -> LoadedModel:
    """Take a copy of a module as the dense model.

    Args:
        module: The module.
        recipe: Its `model` block is used for what `example_inputs` do not tell.
        example_inputs: A batch for each input.

    Returns:
        The model.

    Raises:
        ModelError: The module cannot be compressed.
    """
    from compressor.models.user_modules.given_module import model_in_memory

    options = recipe.model.load_options()
    wanted = {name: options[name] for name in ("input", "batch_dim", "num_classes")}
    return model_in_memory(module, example_inputs=example_inputs, **wanted)


@contextmanager
def shown_progress(wanted: bool) -> Iterator[EventSink]:
    """Yield an event sink: a bar below the cell of a notebook, else what the command line shows on stderr."""
    with notebook_progress() if wanted and in_notebook() else progress_reporter(quiet=not wanted) as emit:
        yield emit


def _data(data: object) -> object:
    return str(data) if isinstance(data, Path) else data


def _source(model: object) -> str | None:
    return str(model) if isinstance(model, str | Path) else None


def _name(model: object) -> str:
    return _source(model) or type(model).__name__


def _recipe_name(recipe: object) -> str:
    return Path(recipe).stem if isinstance(recipe, str | Path) else "recipe"
