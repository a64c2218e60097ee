"""Performs steps: the only place that knows what each kind of step does. Methods only name them."""

from compressor.engine.steps import begin, perform

__all__ = ["begin", "perform"]
