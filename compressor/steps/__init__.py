"""Performs steps: the only place that knows what each kind of step does. Methods only name them."""

from compressor.steps.run import initial_state, run_step

__all__ = ["initial_state", "run_step"]
