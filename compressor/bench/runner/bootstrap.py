"""Run by `python -c` on the device: takes the lock, makes a private folder, receives the runner and starts its server.

argv[1] is JSON: `size` and `sha256` of the runner, and the `folder` to lock and to work in (null = a temporary one).
"""

from __future__ import annotations

import sys

sys.path[:] = [entry for entry in sys.path if entry]  # without the current folder: a file there could shadow a module

import fcntl  # noqa: E402
import glob  # noqa: E402
import hashlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import tempfile  # noqa: E402

PREFIX = f"compress-{os.getuid()}-"


def lock(folder: str) -> None:
    """Hold the device's lock until this process ends; exit if another process holds it."""
    path = os.path.join(folder, "compress-bench.lock")
    try:  # O_CREAT fails for a file of another user in a sticky folder, even if it may be opened
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SystemExit("compress: busy") from None


def delete_orphans(folder: str) -> None:
    """Delete what an interrupted measurement left behind; only the holder of the lock may call this."""
    for orphan in glob.glob(os.path.join(glob.escape(folder), PREFIX + "*")):
        if not os.path.islink(orphan) and os.lstat(orphan).st_uid == os.getuid():
            shutil.rmtree(orphan, ignore_errors=True)


def receive(size: int) -> bytes:
    """Read exactly `size` bytes from stdin."""
    chunks = []
    while size:
        chunk = os.read(0, min(size, 1 << 16))
        if not chunk:
            raise SystemExit("compress: the connection ended")
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def _exit(signum: int, _frame: object) -> None:
    raise SystemExit(128 + signum)


def bootstrap_main() -> None:
    """Receive the runner and serve until the connection ends; delete the folder whatever happens."""
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(signum, _exit)
    arguments = json.loads(sys.argv[1])
    work = None
    try:
        if arguments["folder"] is not None:
            lock(arguments["folder"])
            delete_orphans(arguments["folder"])
        work = tempfile.mkdtemp(prefix=PREFIX, dir=arguments["folder"])
        code = receive(arguments["size"])
        if hashlib.sha256(code).hexdigest() != arguments["sha256"]:
            raise SystemExit("compress: the runner arrived damaged")
        archive = os.path.join(work, "runner.zip")
        with open(archive, "wb") as file:
            file.write(code)
        sys.path.insert(0, archive)
        from runner.server import serve  # type: ignore[import-not-found]  # exists only on the device

        serve(work, archive)
    except OSError as error:
        raise SystemExit(f"compress: {error}") from None
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


bootstrap_main()
