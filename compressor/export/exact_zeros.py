"""Constants that onnxscript's optimizer takes for zero.

It removes the addition of a constant up to 1e-8, such as the one that keeps a logarithm or a quotient finite. The file
then equals the module on all inputs but those where the other summand is zero, and is NaN or infinite there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from compressor.export.replaced import replaced


def zeros_matched_exactly() -> AbstractContextManager[None]:
    """Within, onnxscript's rewrite rules take nothing but zero for zero."""
    return replaced("onnxscript.rewriter._matcher", "SimplePatternMatcher._match_constant", _exact_at_zero)


def _exact_at_zero(match_constant: Callable[..., Any]) -> Callable[..., Any]:
    def _match(self: Any, pattern: Any, value: Any) -> Any:
        stored = value.const_value
        if pattern.value == 0 and stored is not None and stored.size == 1 and stored.numpy().any():
            return self.fail("the constant is not zero")
        return match_constant(self, pattern, value)

    return _match
