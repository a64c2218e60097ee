"""The inputs of a user's network: from the recipe, from the file, or the first usual image size that runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from compressor.core import ModelInput
from compressor.errors import ModelError
from compressor.execution.run_copy import forward_error
from compressor.models.inputs.batch_dims import BatchDimSetting, batch_dims_of, find_batch_dims, with_batch_dim
from compressor.models.inputs.valid_inputs import hold_valid_values
from compressor.models.user_modules.user_module import imported_code, split_code
from compressor.user_code import importable, user_errors_as

USUAL_SIZES = ((3, 224, 224), (3, 32, 32), (1, 28, 28))
_NAMED_INPUTS = ("example_inputs", "example_input", "input_size")
_POSITIONAL_KINDS = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

ShowSamples = Callable[[], Mapping[str, Tensor]]
"""Reads two samples of the data by name (2, ...); none where they are no arrays."""
InputShapes = tuple[tuple[int, ...], ...]
"""The shape of each input, without the batch."""


def no_samples() -> Mapping[str, Tensor]:
    """Show no samples."""
    return {}


def find_inputs(
    source: str,
    module: nn.Module,
    shapes: Sequence[tuple[int, ...]] | None,
    batch_dim: BatchDimSetting = "auto",
    samples: ShowSamples = no_samples,
) -> tuple[tuple[ModelInput, ...], str | None]:
    """Find the inputs of the module: from the recipe, the file, the samples, or the first usual image size that runs.

    If both the recipe and the file give them, the recipe's shapes are used with the types of the file's example.

    Args:
        source: `path/to/file.py:factory`.
        module: The module that the factory built, in eval mode.
        shapes: The shapes without the batch, if the recipe gives them.
        batch_dim: `auto` finds the batch dimension in an example's tensors, and takes the first one for shapes.
        samples: Read where nothing else says what the module takes.

    Returns:
        The inputs, and a note if the recipe does not give them.

    Raises:
        ModelError: No usual input runs, or the file's example or the batch dimension is impossible.
    """
    path, factory_name, _ = split_code(source)
    code = imported_code(path)  # imported when the module was built
    name = next((candidate for candidate in _NAMED_INPUTS if hasattr(code, candidate)), None)
    example: list[ModelInput] = []
    doubt: str | None = None
    if name is not None:
        with user_errors_as(ModelError, "model-code/user-code-raised", f"{path}:1", path), importable(path.parent):
            value = getattr(code, name)
            example, doubt = inputs_like(value() if callable(value) else value, f"{path}:{name}", module, batch_dim)
    if shapes is not None:
        typed = example if len(example) == len(shapes) else [ModelInput(shape) for shape in shapes]
        given = [
            like if shape == like.shape else replace(like, shape=shape, values=None)
            for like, shape in zip(typed, shapes, strict=True)
        ]
        return named_in(with_batch_dim(given, batch_dim), module), None
    if name is not None:
        taken = f"inputs taken from {name} in {path.name}"
        return named_in(example, module), f"{taken}; {doubt}" if doubt else taken
    shown = samples if batch_dim == "auto" else dict  # files have the samples first
    inputs, note = inputs_that_run(module, f"{path}:{factory_name}", shown)
    return inputs, f"{note}; set model.input to change it"


def inputs_that_run(
    module: nn.Module, where: str, samples: ShowSamples = no_samples
) -> tuple[tuple[ModelInput, ...], str]:
    """Find what a module takes by running it: on samples, or else on images of the usual sizes.

    Args:
        module: The module in eval mode.
        where: The place that a message names.
        samples: Read where nothing else says what the module takes.

    Returns:
        The inputs, and a note that says where they come from.

    Raises:
        ModelError: It runs on none of them, or the samples are complex numbers.
    """
    of_samples = _in_order(samples(), module)
    _refuse_complex(of_samples, where)
    usual = [(torch.zeros(2, *size),) for size in USUAL_SIZES]
    failures: dict[str, Exception] = {}
    for rows in (of_samples, *usual) if of_samples else usual:
        sizes = " and ".join("x".join(map(str, tensor.shape[1:])) or "a number" for tensor in rows)
        failure = forward_error(module, *rows)
        if failure is None:
            source = "as in the samples" if rows is of_samples else "found by running it"
            like = [_like(tensor, 0 if tensor.ndim else None) for tensor in rows]
            return named_in(hold_valid_values(module, like, rows), module), f"input {sizes} {source}"
        failures.setdefault(sizes, failure)
    first = next(iter(failures.values()))
    problem = f"none of {', '.join(failures)} runs; the first fails with {type(first).__name__}: {str(first)[:200]}"
    hint = "set model.input, or define example_inputs() in the file"
    raise ModelError("model-input/no-usual-size-runs", where, problem, hint)


def named_in(inputs: Sequence[ModelInput], module: nn.Module) -> tuple[ModelInput, ...]:
    """Name several inputs after the parameters of the module's forward; a single one keeps the name `input`.

    Args:
        inputs: The inputs.
        module: The module that takes them.

    Returns:
        The named inputs.
    """
    if len(inputs) == 1:
        return tuple(inputs)
    own = _positional(module)
    names = own if len(own) >= len(inputs) else [f"input_{place}" for place in range(len(inputs))]
    return tuple(replace(unnamed, name=name) for unnamed, name in zip(inputs, names, strict=False))


def _positional(module: nn.Module) -> list[str]:
    """The names of the parameters that forward takes by position."""
    parameters = inspect.signature(module.forward).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in _POSITIONAL_KINDS]


def _in_order(samples: Mapping[str, Tensor], module: nn.Module) -> list[Tensor]:
    """The samples in the order of the parameters of the module's forward, if they have their names."""
    own = [name for name in inspect.signature(module.forward).parameters if name in samples]
    rows = [samples[name] for name in own] if len(own) == len(samples) else list(samples.values())
    return [tensor.float() if tensor.is_floating_point() else tensor for tensor in rows]


def inputs_like(
    value: object, where: str, module: nn.Module, batch_dim: BatchDimSetting
) -> tuple[list[ModelInput], str | None]:
    """Read a tensor, a tuple of tensors or a dict of them by parameter, with their batch, or shapes without it.

    Args:
        value: What shows the inputs.
        where: The place that a message names.
        module: The module that takes them.
        batch_dim: The batch dimension; `auto` = found by running the module.

    Returns:
        The inputs, and a note on what was not certain.

    Raises:
        ModelError: `value` shows no inputs, or complex ones.
    """
    if isinstance(value, Mapping) and set(own := _positional(module)[: len(value)]) == set(value):
        value = tuple(value[name] for name in own)
    parts = [value] if isinstance(value, Tensor) else value
    if isinstance(parts, list | tuple) and parts and all(isinstance(part, Tensor) for part in parts):
        _refuse_complex(parts, where)
        if batch_dim == "auto":
            dims, note = find_batch_dims(module, parts)
        else:
            dims, note = batch_dims_of(parts, batch_dim, where), None
        inputs = [_like(tensor, dim) for tensor, dim in zip(parts, dims, strict=True)]
        return list(hold_valid_values(module, inputs, parts)), note
    if shapes := shapes_in(parts):
        return with_batch_dim([ModelInput(shape) for shape in shapes], batch_dim), None
    hint = (
        "return a tensor, or tensors in the order of forward's parameters, with a batch dimension; a shape is without"
    )
    if isinstance(value, Mapping | list | tuple):
        hint += "; wrap a network whose forward takes keywords, lists or dicts"
    raise ModelError("model-input/malformed", where, f"its value is {_described(value)}", hint)


def _refuse_complex(tensors: Sequence[Tensor], where: str) -> None:
    """ONNX Runtime takes no complex inputs."""
    given = next((tensor for tensor in tensors if tensor.is_complex()), None)
    if given is not None:
        problem = f"an input of type {str(given.dtype).removeprefix('torch.')}: ONNX Runtime takes real inputs only"
        hint = "wrap the network: take a last dimension of 2, real and imaginary, and call torch.view_as_complex"
        raise ModelError("model-input/complex", where, problem, hint)


def _described(value: object) -> str:
    """A value of an example's kind, without the numbers in its tensors."""
    match value:
        case Tensor():
            return f"a tensor of shape {tuple(value.shape)}"
        case Mapping():
            return f"a dict of {', '.join(map(str, value))}"
        case list() | tuple():
            return f"a {type(value).__name__} of {' and '.join(map(_described, value[:3])) or 'nothing'}"
    return repr(value)[:80]


def shapes_in(value: object) -> InputShapes:
    """Read `[3, 32, 32]` or `[[3, 32, 32], [5]]` as shapes; return none for anything else."""
    if not isinstance(value, list | tuple) or not value:
        return ()
    several = value if all(isinstance(entry, list | tuple) for entry in value) else [value]
    if all(several) and all(isinstance(size, int) and size > 0 for shape in several for size in shape):
        return tuple(tuple(shape) for shape in several)
    return ()


def _like(tensor: Tensor, batch_dim: int | None) -> ModelInput:
    """Describe a tensor by shape and type; for integers also by their range, in which example inputs are drawn."""
    shape = tuple(size for dim, size in enumerate(tensor.shape) if dim != batch_dim)
    if tensor.is_floating_point():
        return ModelInput(shape, batch_dim=batch_dim)
    bounds = (int(tensor.min()), int(tensor.max())) if tensor.numel() else (0, 0)
    return ModelInput(shape, str(tensor.dtype).removeprefix("torch."), bounds, batch_dim=batch_dim)
