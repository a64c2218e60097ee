"""Integers that a file takes and no table bounds, such as lengths: values for which its answers are finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnxruntime import InferenceSession
from torch import Tensor

from compressor.core import ModelInput, ModelSpec
from compressor.errors import ModelError
from compressor.export.parity import module_outputs, run_session
from compressor.models.inputs.example_inputs import spec_inputs
from compressor.models.onnx_import.imported_module import ImportedModule


def other_integers(
    inputs: Sequence[ModelInput], unbounded: frozenset[str], samples: Mapping[str, Tensor]
) -> Iterator[tuple[ModelInput, ...]]:
    """Yield inputs with other values: those of the data; 1 to the size of each axis for lengths; ones for masks.

    Args:
        inputs: The inputs with the usual values, for which outputs are not finite.
        unbounded: Names of inputs of integers that no table bounds.
        samples: Some samples of the data, by the names of inputs.

    Yields:
        One description for each input.
    """
    if unbounded & samples.keys():
        yield tuple(
            replace(one, values=tuple(samples[one.name].flatten().tolist()))
            if one.name in samples and samples[one.name].shape[1:] == one.shape and one.batch_dim == 0
            else one
            for one in inputs
        )
    sizes = list(dict.fromkeys(size for one in inputs for size in one.shape if size > 1))
    for length, entry in zip([*sizes, 1], [1, *sizes], strict=True):
        yield tuple(
            replace(one, integer_range=(1, length if _is_length(one) else entry)) if one.name in unbounded else one
            for one in inputs
        )


def has_finite_answers(
    session: InferenceSession, module: ImportedModule, inputs: Sequence[ModelInput], unbounded: frozenset[str]
) -> bool:
    """Run a file and its module with the smallest and the largest lengths, and other integers at random.

    Args:
        session: The file.
        module: The module that was built of it.
        inputs: The inputs.
        unbounded: Names of inputs of integers that no table bounds.

    Returns:
        Whether both run, and every answer is finite.
    """
    for bound in (0, 1):
        extreme = tuple(
            replace(one, integer_range=(one.integer_range[bound],) * 2)
            if one.name in unbounded and one.integer_range is not None and _is_length(one)
            else one
            for one in inputs
        )
        batch = spec_inputs(ModelSpec("", extreme), seed=bound)
        try:
            answers = [*run_session(session, module.arranged_for_file(batch)), *module_outputs(module, batch)]
        except Exception:  # a graph may raise anything for integers that it does not expect
            return False
        if not all(np.isfinite(answer).all() for answer in answers if answer.dtype.kind == "f"):
            return False
    return True


def _is_length(one: ModelInput) -> bool:
    """Whether an input has one number for each sample."""
    return len(one.shape) == (1 if one.batch_dim is None else 0) or one.shape == (1,)


def no_valid_integers(where: str, inputs: Sequence[ModelInput], unbounded: frozenset[str]) -> ModelError:
    """Make the error for a file whose outputs are finite for none of the integers tried.

    Args:
        where: The file.
        inputs: The inputs with the usual values.
        unbounded: Names of inputs of integers that no table bounds.

    Returns:
        The error, which names the inputs.
    """
    tried = [one.integer_range for variant in (inputs, *other_integers(inputs, unbounded, {})) for one in variant
             if one.name in unbounded and one.integer_range is not None]  # fmt: skip
    ranges = ", ".join(f"{low} to {high}" for low, high in dict.fromkeys(tried))
    names = ", ".join(one.name for one in inputs if one.name in unbounded)
    tries = f"{ranges}, and those of the data, if any"
    problem = f"its outputs are NaN or infinite for all integers tried as {names} ({tries})"
    hint = f"give --data with valid integers in arrays named as the inputs: {names}"
    return ModelError("onnx-model/no-valid-integers", where, problem, hint)
