"""What libraries log and print is not seen, so that stdout carries results only."""

from __future__ import annotations

import ctypes
import logging
import os
import sys

import pytest

from compressor.silence import silent_logging, silent_output, silent_streams


def test_nothing_that_is_written_within_is_seen(capfd: pytest.CaptureFixture[str]) -> None:
    c = ctypes.CDLL(None)
    c.puts(b"before, held back by C")
    with silent_streams():
        c.puts(b"within, held back by C")
        os.write(1, b"within, to stdout")
        os.write(2, b"within, to stderr")
    os.write(1, b"after")
    assert capfd.readouterr() == ("before, held back by C\nafter", "")


def test_streams_are_restored_after_an_exception(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), silent_streams():
        raise KeyError
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


@pytest.mark.parametrize(("users", "within"), [(logging.NOTSET, 30), (logging.INFO, 30), (logging.CRITICAL, 50)])
def test_what_the_user_has_disabled_is_disabled_within_and_after(users: int, within: int) -> None:
    logging.disable(users)
    try:
        with silent_logging(logging.WARNING):
            assert logging.root.manager.disable == within
        assert logging.root.manager.disable == users
    finally:
        logging.disable(logging.NOTSET)


def test_what_python_prints_within_is_not_seen(capsys: pytest.CaptureFixture[str]) -> None:
    with silent_output():
        print("within")
        print("within", file=sys.stderr)
    print("after")
    assert capsys.readouterr() == ("after\n", "")
