"""Constants that onnxscript's optimizer takes for zero.

It removes the addition of a constant up to 1e-8, such as the one that keeps a logarithm or a quotient finite. The file
then equals the module on all inputs but those where the other summand is zero, and is NaN or infinite there.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from compressor.export.exporter_shortcuts import replaced


@contextlib.contextmanager
def zeros_matched_exactly() -> Iterator[None]:
    """Within, onnxscript's rewrite rules take nothing but zero for zero.

    Its matcher has no setting for it. Where a version lacks the names below, nothing is replaced.
    """
    try:
        matcher: Any = importlib.import_module("onnxscript.rewriter._matcher").SimplePatternMatcher
        match_constant = matcher._match_constant
    except (ImportError, AttributeError):
        yield
        return

    def _match(self: Any, pattern: Any, value: Any) -> Any:
        stored = value.const_value
        if pattern.value == 0 and stored is not None and stored.size == 1 and stored.numpy().any():
            return self.fail("the constant is not zero")
        return match_constant(self, pattern, value)

    with replaced(matcher, "_match_constant", _match):
        yield
