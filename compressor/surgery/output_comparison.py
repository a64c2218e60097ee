"""Whether two modules compute the same: outputs in float64, or what lies before them where values decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from compressor.core import Certificate
from compressor.execution.copies import copy_module
from compressor.execution.differences import differences, largest_finite
from compressor.execution.equal_choices import Choices, RecordChoices, RepeatChoices
from compressor.execution.float64 import FLOAT32, FLOAT64, Precision, Run, call
from compressor.graph.rules import table as rules
from compressor.graph.trace import trace_module
from compressor.layers import has_filters, observe_outputs
from compressor.tensors import tree_leaves

CHOSEN = "-equal-choices"  # at the end of a proof's name: the slim model takes over what the dense one chose by value


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """Two modules that should compute the same. Every pass runs a fresh copy, from equal random numbers.

    The dense model is built when it is needed, so that memory holds one float64 copy at a time.
    """

    make_dense: Callable[[], nn.Module]
    slim: nn.Module
    inputs: Sequence[Tensor]
    run_dense: Run = call
    precision: Precision = FLOAT64

    def proof(self, reference: str) -> Certificate:
        """Compare outputs; where values decide, what lies before them, or outputs behind equal choices.

        Args:
            reference: The name of what the slim model is compared with.

        Returns:
            The certificate.
        """
        pair, proof = self._of_outputs(reference)
        if proof.ok:
            return proof
        if trace_module(copy_module(self.slim), *self.inputs, known=rules.has_rule).data_dependent:
            inside = pair._of_layers(reference)
            if inside.ok:
                return inside
        chosen = pair._behind_choices(reference)
        return chosen if chosen.ok or proof.max_abs_error == 0.0 else proof

    def outputs(self, reference: str) -> Certificate:
        """Compare outputs alone.

        Args:
            reference: The name of what the slim model is compared with.

        Returns:
            The certificate.
        """
        return self._of_outputs(reference)[1]

    def inside(self, reference: str) -> Certificate:
        """Compare the outputs of layers of unchanged width alone.

        Args:
            reference: The name of what the slim model is compared with.

        Returns:
            The certificate.
        """
        return self._of_outputs(reference)[0]._of_layers(reference)

    def _of_outputs(self, reference: str) -> tuple[OutputComparison, Certificate]:
        """Compare outputs in float64, or in float32 where the forward requires the types it was written for."""
        try:
            expected = self._outputs(self.make_dense(), self.run_dense)
            return self, _compare(reference, self.precision, expected, self._outputs(copy_module(self.slim)))
        except Exception:  # what a user's forward raises when it finds other types than it expects
            if self.precision is FLOAT32:
                raise
            return replace(self, precision=FLOAT32)._of_outputs(reference)

    def _of_layers(self, reference: str) -> Certificate:
        """Compare the outputs of layers of unchanged width."""
        dense, slim = self.make_dense(), copy_module(self.slim)
        layers = _unchanged(dense, slim)
        expected = self._inside(dense, layers, self.run_dense)
        return _compare(reference, self.precision, expected, self._inside(slim, layers))

    def _behind_choices(self, reference: str) -> Certificate:
        """Compare outputs and the scores behind choices; the slim model takes over the dense one's choices."""
        choices = Choices()
        with RecordChoices(choices):
            expected = self._outputs(self.make_dense(), self.run_dense)
        with RepeatChoices(choices):
            actual = self._outputs(copy_module(self.slim))
        return _compare(reference, self.precision, expected, actual, choices)

    def _outputs(self, module: nn.Module, run: Run = call) -> list[Tensor]:
        """Run a module, which is changed, and return its floating-point outputs."""
        with torch.inference_mode():
            result = self.precision.run(module, self.inputs, run)
        return [leaf for leaf in tree_leaves(result) if leaf.is_floating_point()]

    def _inside(self, module: nn.Module, layers: Sequence[str], run: Run = call) -> list[Tensor]:
        """Collect the outputs of these layers, in the order in which they run."""
        results: list[Tensor] = []

        def _note(_: str, output: object) -> None:
            results.extend(leaf.clone() for leaf in tree_leaves(output))  # later layers may write into it

        with observe_outputs(module, layers, _note):
            self._outputs(module, run)
        return results


def _compare(
    reference: str,
    precision: Precision,
    expected: Sequence[Tensor],
    actual: Sequence[Tensor],
    choices: Choices | None = None,
) -> Certificate:
    """Compare outputs by their largest difference.

    `choices` holds what was compared beside the outputs; nothing else is compared where these are integers or empty.
    """
    infinite = float("inf")
    proofs = (f"{reference}-{precision.name}{CHOSEN if choices is not None else ''}",)
    if [output.shape for output in expected] != [output.shape for output in actual]:
        return Certificate(proofs, infinite, infinite, ok=False, tolerance=precision.tolerance)
    error, relative = differences(actual, expected)
    if error == 0.0 and largest_finite(expected) == 0.0:  # outputs that are zero agree with anything
        relative = infinite
    if choices is not None and choices.made:
        nothing = not any(output.numel() for output in expected)
        error = max(error, choices.max_abs_error)
        relative = max(0.0 if nothing else relative, choices.max_rel_error)
    return Certificate(proofs, error, relative, relative <= precision.tolerance, precision.tolerance)


def _unchanged(dense: nn.Module, slim: nn.Module) -> list[str]:
    """List the convolutions and linear layers that keep all their filters."""
    rows = {name: module.weight.shape for name, module in dense.named_modules() if has_filters(module)}
    return [name for name, module in slim.named_modules() if name in rows and module.weight.shape[:1] == rows[name][:1]]
