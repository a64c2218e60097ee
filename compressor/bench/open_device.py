"""From the name of a target to the device that measures: what targets.yaml says, as deploy's records."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from compressor.bench.device.target import DeviceTarget
from compressor.bench.device.transport import AdbTransport, LocalTransport, SshTransport, Transport
from compressor.recipe.device_config import DeviceConfig, find_target

FOLDERS: dict[type[Transport], str] = {AdbTransport: "/data/local/tmp"}  # Android has no /tmp


def open_device(name: str, threads: int | Literal["auto"] = "auto", *, file: Path | None = None) -> DeviceTarget | None:
    """The target of that name; None for `none`, which measures nothing. Reaches nothing yet.

    `threads`: auto = what targets.yaml says, 1 where it says nothing. Raises RecipeError for a name nobody knows.
    """
    if name == "none":
        return None
    entry = find_target(name, file) or DeviceConfig.model_construct(name=name)
    reach = _reach(entry)
    return DeviceTarget(
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


def _reach(entry: DeviceConfig) -> Transport:
    if entry.ssh is not None:
        ssh = entry.ssh
        return SshTransport(ssh.host, ssh.user, ssh.port, _path(ssh.key), _path(ssh.known_hosts))
    return AdbTransport(entry.adb.serial) if entry.adb is not None else LocalTransport()


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None
