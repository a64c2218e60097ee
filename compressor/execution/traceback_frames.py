"""The frames in which a pass failed."""

from __future__ import annotations

from types import FrameType


def traceback_frames(failure: BaseException) -> list[tuple[FrameType, int]]:
    """Frames and lines of the traceback, innermost first; the call of the pass itself is the last."""
    frames = []
    step = failure.__traceback__
    while step is not None:
        frames.append((step.tb_frame, step.tb_lineno))
        step = step.tb_next
    return frames[::-1]
