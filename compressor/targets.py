"""From the name of a target to the device that measures: what targets.yaml says, as deploy's records."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from compressor.deploy.reach import Adb, Here, Reach, Ssh
from compressor.deploy.target import Target
from compressor.recipe.targets import Entry, find_target

FOLDERS: dict[type[Reach], str] = {Adb: "/data/local/tmp"}  # Android has no /tmp


def open_target(name: str, threads: int | Literal["auto"] = "auto", *, file: Path | None = None) -> Target | None:
    """The target of that name; None for `none`, which measures nothing. Reaches nothing yet.

    `threads`: auto = what targets.yaml says, 1 where it says nothing. Raises RecipeError for a name nobody knows.
    """
    if name == "none":
        return None
    entry = find_target(name, file) or Entry.model_construct(name=name)
    reach = _reach(entry)
    return Target(
        name=entry.name,
        reach=reach,
        provider=entry.provider,
        threads=entry.threads if threads == "auto" else threads,
        python=entry.python or (),
        folder=entry.folder or FOLDERS.get(type(reach), "/tmp"),
        graph=entry.graph,
        options=entry.options,
        cpu_fallback=entry.cpu_fallback,
        power=entry.power,
    )


def _reach(entry: Entry) -> Reach:
    if entry.ssh is not None:
        ssh = entry.ssh
        return Ssh(ssh.host, ssh.user, ssh.port, _path(ssh.key), _path(ssh.known_hosts))
    return Adb(entry.adb.serial) if entry.adb is not None else Here()


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None
