"""The inputs of a user's network: from the recipe, from the file, or the first usual image size that runs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from compressor.core import ImageSize, ModelInput, one_image
from compressor.errors import ModelError
from compressor.execution.copies import copy_module
from compressor.models.batch_dims import BatchDimSetting, batch_dims_of, find_batch_dims, with_batch_dim
from compressor.models.user_module import imported_code, split_code
from compressor.user_code import importable, user_errors_as

USUAL_SIZES = ((3, 224, 224), (3, 32, 32), (1, 28, 28))
_NAMED_INPUTS = ("example_inputs", "example_input", "input_size")
_POSITIONAL_KINDS = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

InputShapes = tuple[tuple[int, ...], ...]
"""The shape of each input, without the batch."""


def find_inputs(
    source: str,
    module: nn.Module,
    shapes: Sequence[tuple[int, ...]] | None,
    batch_dim: BatchDimSetting = "auto",
) -> tuple[tuple[ModelInput, ...], str | None]:
    """Find the inputs of the module: from the recipe, from the file, or the first usual image size that runs.

    If both the recipe and the file give them, the recipe's shapes are used with the types of the file's example.

    Args:
        source: `path/to/file.py:factory`.
        module: The module that the factory built, in eval mode.
        shapes: The shapes without the batch, if the recipe gives them.
        batch_dim: `auto` finds the batch dimension in an example's tensors, and takes the first one for shapes.

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
        inputs = [replace(like, shape=shape) for like, shape in zip(typed, shapes, strict=True)]
        return named_in(with_batch_dim(inputs, batch_dim), module), None
    if name is not None:
        taken = f"inputs taken from {name} in {path.name}"
        return named_in(example, module), f"{taken}; {doubt}" if doubt else taken
    size = input_that_runs(module, f"{path}:{factory_name}")
    return one_image(size), f"input {'x'.join(map(str, size))} found by running it; set model.input to change it"


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
    own = [
        parameter.name
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.kind in _POSITIONAL_KINDS
    ]
    names = own if len(own) >= len(inputs) else [f"input_{place}" for place in range(len(inputs))]
    return tuple(replace(unnamed, name=name) for unnamed, name in zip(inputs, names, strict=False))


def input_that_runs(module: nn.Module, where: str) -> ImageSize:
    """Find the first of the usual image sizes that the module takes.

    Args:
        module: The module in eval mode.
        where: The place that the message names.

    Returns:
        Channels, height and width.

    Raises:
        ModelError: None of them runs.
    """
    for size in USUAL_SIZES:
        failure = _failure(module, size)
        if failure is None:
            return size
    tried = ", ".join("x".join(map(str, size)) for size in USUAL_SIZES)
    problem = f"none of the sizes {tried} runs; the last fails with {type(failure).__name__}: {str(failure)[:200]}"
    raise ModelError(
        "model-input/no-usual-size-runs", where, problem, "set model.input, or define example_inputs() in the file"
    )


def _failure(module: nn.Module, size: ImageSize) -> Exception | None:
    copied = copy_module(module)  # forward may change the module's state
    try:
        with torch.no_grad():
            copied(torch.zeros(2, *size))
    except Exception as error:  # a user's network may raise anything
        return error
    return None


def inputs_like(
    value: object, where: str, module: nn.Module, batch_dim: BatchDimSetting
) -> tuple[list[ModelInput], str | None]:
    """Read a tensor, a tuple of tensors with their batch, or shapes without it.

    Args:
        value: What shows the inputs.
        where: The place that a message names.
        module: The module that takes them.
        batch_dim: The batch dimension; `auto` = found by running the module.

    Returns:
        The inputs, and a note on what was not certain.

    Raises:
        ModelError: `value` shows no inputs.
    """
    parts = [value] if isinstance(value, Tensor) else value
    if isinstance(parts, list | tuple) and parts and all(isinstance(part, Tensor) for part in parts):
        if batch_dim == "auto":
            dims, note = find_batch_dims(module, parts)
        else:
            dims, note = batch_dims_of(parts, batch_dim, where), None
        return [_like(tensor, dim) for tensor, dim in zip(parts, dims, strict=True)], note
    if shapes := shapes_in(parts):
        return with_batch_dim([ModelInput(shape) for shape in shapes], batch_dim), None
    hint = "return a tensor or a tuple of tensors with a batch dimension, or a shape without it"
    raise ModelError("model-input/malformed", where, f"its value is {repr(value)[:80]}", hint)


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
    bounds = (int(tensor.min()), int(tensor.max()))
    return ModelInput(shape, str(tensor.dtype).removeprefix("torch."), bounds, batch_dim=batch_dim)
