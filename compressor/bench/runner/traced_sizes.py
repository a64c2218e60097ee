"""What the metadata of an exported file says of the sizes that it leaves open."""

from __future__ import annotations

import json
from typing import Any

BATCH_DIMS = "batch_dims"
"""Key of the batch dimension of each input, as a JSON list, if it is not the first of all of them."""
NO_BATCH = -1
"""The batch dimension of an input without one, where only integers can be written."""
FREE_SIZES = "free_sizes"
"""Key of a JSON object: name of a size that the file leaves open -> the one that it was traced with."""


def traced_sizes(metadata: dict[str, str], inputs: int) -> tuple[list[Any], dict[str, int]]:
    """Read what an exported file says of its free sizes. Another program's values under the same keys count as absent.

    Args:
        metadata: The file's metadata.
        inputs: Number of its inputs.

    Returns:
        The batch dimension of each input (None for an input without one), and name of a free dimension -> its size.
    """
    dims, sizes = (_json(metadata.get(key)) for key in (BATCH_DIMS, FREE_SIZES))
    if not isinstance(dims, list) or len(dims) != inputs or not all(dim is None or type(dim) is int for dim in dims):
        dims = [0] * inputs
    if not isinstance(sizes, dict) or not all(type(size) is int and size > 0 for size in sizes.values()):
        sizes = {}
    return dims, sizes


def _json(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except ValueError:
        return None
