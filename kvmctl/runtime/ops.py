"""One async function per QMP operation: what is asked in, what QEMU answers out. See QEMU's QMP reference for each
command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from kvmctl.errors import QmpError
from kvmctl.runtime.events import State
from kvmctl.runtime.monitor import Monitor

_BALLOON: Final = "/machine/peripheral/balloon"
"""The QOM path of the balloon: `balloon` is the id that the compiler gives it."""

_STATES = {
    "running": State.RUNNING,
    "paused": State.PAUSED,
    "prelaunch": State.STARTING,
    "suspended": State.SUSPENDED,
    "guest-panicked": State.PANICKED,
    "io-error": State.IO_ERROR,
    "shutdown": State.SHUTDOWN,
    "internal-error": State.PANICKED,
}


@dataclass(frozen=True, slots=True)
class Balloon:
    """A balloon's state: `actual` is the memory the guest has now, `statistics` what it last reported of it (bytes)."""

    actual: int
    statistics: dict[str, int]
    updated: int
    """When the statistics were reported, seconds since the epoch; 0 before the first time."""


async def query_status(monitor: Monitor) -> State:
    """What the machine is doing."""
    reply = await monitor.execute("query-status")
    return _STATES.get(reply["status"], State.PAUSED)


async def cont(monitor: Monitor) -> None:
    """Let the vCPUs run."""
    await monitor.execute("cont")


async def pause(monitor: Monitor) -> None:
    """Stop the vCPUs."""
    await monitor.execute("stop")


async def wake(monitor: Monitor) -> None:
    """Wake a guest that sleeps (ACPI S3)."""
    await monitor.execute("system_wakeup")


async def reset(monitor: Monitor) -> None:
    """Press the reset button."""
    await monitor.execute("system_reset")


async def press_power_button(monitor: Monitor) -> None:
    """Press the ACPI power button; the guest does with it what it likes."""
    await monitor.execute("system_powerdown")


async def quit_qemu(monitor: Monitor) -> None:
    """End QEMU, which flushes its disks first."""
    await monitor.execute("quit")


async def query_memory(monitor: Monitor) -> int:
    """The memory the machine has now, what was plugged into it included (bytes)."""
    reply = await monitor.execute("query-memory-size-summary")
    return int(reply["base-memory"] + reply.get("plugged-memory", 0))


async def set_balloon(monitor: Monitor, size: int) -> None:
    """Ask the guest to keep `size` bytes of its memory and give the rest back. Raises QmpError without a balloon."""
    await _ask_balloon(monitor, "balloon", {"value": size})


async def query_balloon(monitor: Monitor) -> Balloon:
    """What the guest has and says of it. Raises QmpError where there is no balloon."""
    actual = (await _ask_balloon(monitor, "query-balloon"))["actual"]
    try:
        reply = await monitor.execute("qom-get", {"path": _BALLOON, "property": "guest-stats"})
    except QmpError:
        return Balloon(actual, {}, 0)
    # QEMU reports what the guest has not said as 2**64 - 1.
    known = {name: value for name, value in reply["stats"].items() if 0 <= value < 2**63}
    return Balloon(actual, known, reply["last-update"])


async def _ask_balloon(monitor: Monitor, command: str, arguments: dict[str, int] | None = None) -> Any:
    try:
        return await monitor.execute(command, arguments)
    except QmpError as error:
        if error.error_class == "DeviceNotActive":
            error.hint = "Give it one in the spec: balloon = true"
        raise


async def screendump(monitor: Monitor, path: str) -> None:
    """Write what the first display shows to `path` as PNG."""
    await monitor.execute("screendump", {"filename": path, "format": "png"})


async def query_vnc(monitor: Monitor) -> str | None:
    """Where VNC is to be had: a path, or ``host:port``; None without VNC."""
    reply = await monitor.execute("query-vnc")
    if not reply.get("enabled"):
        return None
    if reply.get("family") == "unix":
        return str(reply["service"])
    return f"{reply['host']}:{reply['service']}"


async def query_forwards(monitor: Monitor) -> list[str]:
    """The user networks' port forwards with the ports QEMU chose, ``tcp:127.0.0.1:40001->10.0.2.15:22``."""
    text = await monitor.execute("human-monitor-command", {"command-line": "info usernet"})
    return parse_usernet(str(text))


async def add_forward(monitor: Monitor, *, netdev: str, rule: str) -> None:
    """Forward a port of the host to the guest of the user network `netdev`, by libslirp's `rule`.

    Raises QmpError where it can't. HMP alone can do it, and says what went wrong in words only.
    """
    answer = await monitor.execute("human-monitor-command", {"command-line": f"hostfwd_add {netdev} {rule}"})
    if answer:
        raise QmpError(f"QEMU refused to forward {rule!r}: {str(answer).strip()}")


def parse_usernet(text: str) -> list[str]:
    """The forwards in the table that QEMU's ``info usernet`` prints, which has no QMP form."""
    forwards = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 6 and words[0] in {"TCP[HOST_FORWARD]", "UDP[HOST_FORWARD]"}:
            protocol = words[0].partition("[")[0].lower()
            forwards.append(f"{protocol}:{words[2]}:{words[3]}->{words[4]}:{words[5]}")
    return forwards
