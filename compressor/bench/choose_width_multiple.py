"""What widths are multiples of: the recipe's number, or what the device prefers."""

from __future__ import annotations

from compressor.bench.device.target import DeviceTarget
from compressor.bench.width_multiples import preferred_width_multiple
from compressor.recipe import Recipe
from compressor.run_log import RunLog

WITHOUT_DEVICE = 8  # channels, which most runtimes prefer
COARSEST = 32


def choose_width_multiple(recipe: Recipe, target: DeviceTarget | None, log: RunLog) -> int:
    """Choose what the widths of a run are multiples of.

    Args:
        recipe: Its `prune.round_to` decides unless it is `auto`.
        target: The device; None = nothing is measured.
        log: A resumed run keeps its multiple, because a second measurement might give another.

    Returns:
        The number of channels that widths are multiples of.

    Raises:
        DeviceUnavailable: The device cannot be reached.
    """
    if recipe.method.unstructured:
        return 1
    if recipe.prune.round_to != "auto":
        return recipe.prune.round_to
    if recipe.selection(COARSEST).allocates_per_layer:
        return COARSEST  # the latency model says what each layer prefers
    if target is None:
        return WITHOUT_DEVICE

    def measure() -> int:
        with log.stage("ask the target"), target.opened() as device:
            multiple = preferred_width_multiple(device, emit=log)
        log.note(f"target {target.name} prefers widths that are multiples of {multiple}")
        return multiple

    return log.decision(f"width multiple on {target.name}, {target.provider}, {target.threads} threads", measure)
