"""The digest of report.json, which lists the hashes of all other files and so cannot be listed itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

DIGEST = "sha256"


def report_digest(report: Mapping[str, object]) -> str:
    """Compute the SHA-256 of a report's content, whatever the order of its keys and the layout of its file.

    Args:
        report: Content of report.json; its own digest is left out.

    Returns:
        Hexadecimal digits.
    """
    content = {key: value for key, value in report.items() if key != DIGEST}
    as_read = json.loads(json.dumps(content))  # numbers as keys are strings in a file
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()
