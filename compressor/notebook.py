"""Progress and results inside a notebook, without a dependency: IPython is used only where it runs already."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from compressor.core import EventSink

FRAME_HEIGHT = 640  # pixels


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


@contextmanager
def notebook_progress() -> Iterator[EventSink]:
    """Yield an event sink that shows one bar below the cell; the bar disappears when the block ends."""
    import IPython.display

    handle: Any = IPython.display.display(IPython.display.HTML(bar_html("", None)), display_id=True)
    stage = ""

    def _emit(event: str, fields: Mapping[str, Any]) -> None:
        nonlocal stage
        if event == "stage":
            stage = str(fields["name"])
            handle.update(IPython.display.HTML(bar_html(stage, None)))
        elif event == "progress":
            done = fields["done"] / fields["total"] if fields["total"] else None
            if "epoch" in fields and done is not None:  # one bar for all epochs
                done = (fields["epoch"] - 1 + done) / fields["epochs"]
            handle.update(IPython.display.HTML(bar_html(f"{stage}: {fields['what']}", done)))

    try:
        yield _emit
    finally:
        handle.update(IPython.display.HTML(""))


def bar_html(text: str, done: float | None) -> str:
    """Return a bar.

    Args:
        text: What is being done.
        done: The share that is done; None = not known.

    Returns:
        HTML.
    """
    value = "" if done is None else f' value="{done:.3f}"'
    return f'<progress max="1"{value} style="width: 16em"></progress> {html.escape(text)}'


def page_in_frame(page: str) -> str:
    """Return HTML that shows a whole page in a frame of its own, so that its style does not reach the notebook."""
    return (
        f'<iframe srcdoc="{html.escape(page)}" sandbox="allow-popups" '
        f'style="width: 100%; height: {FRAME_HEIGHT}px; border: 0"></iframe>'
    )
