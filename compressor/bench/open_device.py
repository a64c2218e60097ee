"""From the name of a device to the device itself: what targets.yaml says, as records of this room."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from compressor.bench.device.target import DeviceTarget
from compressor.bench.device.transport import AdbTransport, LocalTransport, SshTransport, Transport
from compressor.recipe.device_config import DeviceConfig, find_target
from compressor.run_log import RunLog

FOLDERS: dict[type[Transport], str] = {AdbTransport: "/data/local/tmp"}  # Android has no /tmp


def open_device(name: str, threads: int | Literal["auto"] = "auto", *, file: Path | None = None) -> DeviceTarget | None:
    """Look up a device; it is not connected to yet.

    Args:
        name: A name in targets.yaml, `local`, or `none`.
        threads: Threads of the runtime; auto = what targets.yaml says, 1 where it says nothing.
        file: Another targets.yaml.

    Returns:
        The device; None for `none`, where nothing is measured.

    Raises:
        RecipeError: There is no device of that name.
    """
    if name == "none":
        return None
    config = find_target(name, file) or DeviceConfig.model_construct(name=name)
    transport = _transport(config)
    return DeviceTarget(
        name=config.name,
        reach=transport,
        provider=config.provider,
        threads=config.threads if threads == "auto" else threads,
        python=config.python or (),
        folder=config.folder or FOLDERS.get(type(transport), "/tmp"),
        graph=config.graph,
        options=config.options,
        cpu_fallback=config.cpu_fallback,
        power=config.power,
    )


def check_device(target: DeviceTarget | None, log: RunLog) -> None:
    """Connect to a remote device once, so that an unreachable one fails now and not after hours of training.

    Args:
        target: The device; the local machine is not checked.
        log: Receives a note that says which device the models will be sent to.

    Raises:
        DeviceUnavailable: The device cannot be reached.
    """
    if target is None or target.is_here:
        return
    with log.stage("find the target"), target.opened() as device:
        about = f"{device.facts.get('cpu', 'unknown processor')}, {device.runtime}, {device.provider}"
        log.note(f"target {target.name} is a {about}; both models will be sent there and removed again")


def _transport(config: DeviceConfig) -> Transport:
    if config.ssh is not None:
        ssh = config.ssh
        return SshTransport(ssh.host, ssh.user, ssh.port, _path(ssh.key), _path(ssh.known_hosts))
    return AdbTransport(config.adb.serial) if config.adb is not None else LocalTransport()


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None
