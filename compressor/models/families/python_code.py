"""`path/to/file.py:factory`: the architecture is a user's own code."""

from __future__ import annotations

from torch import nn

from compressor.core import ModelSpec
from compressor.models.families.base import Family
from compressor.models.preparation.prepare import prepare_module
from compressor.models.user_modules.user_module import build_module, import_factory, is_code


class PythonCode(Family):
    """Networks that a Python file builds. They have no prefix; the form of the source decides."""

    prefix = ""
    rank = 0
    draws_only_weights = False

    def owns(self, source: str) -> bool:
        return is_code(source)

    def build(self, spec: ModelSpec, name: str) -> nn.Module:
        """Call the factory, as `Family.build` does.

        Args:
            spec: Its source, classes and arguments.
            name: The source again.

        Returns:
            The module without wrappers.

        Raises:
            ModelError: The code failed, or did not return a module.
        """
        module, _ = prepare_module(build_module(import_factory(spec.source), spec.num_classes, spec.arguments))
        return module


FAMILY = PythonCode()
