"""ssh into a guest: its command line, its configuration, and what its log says of how it went. Pure.

The system's own ssh does the work, so that the user's agent, terminal and habits stay as they are. What is said here
goes before the user's configuration: the guest's key is looked for under a name that no other machine has, and
connections are neither shared nor sent by way of another host, since a port on loopback is one guest today and another
tomorrow.

May import errors and plan.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from kvmctl.errors import HostKeyChanged, KvmctlError, Unreachable

Source: TypeAlias = Literal["forward", "agent", "neighbour"]
"""How an address came to be known: a port of the host that leads there, the guest agent's word, the host's table of
neighbours (ARP, NDP)."""

LOGGED: Final = ("-o", "LogLevel=DEBUG1")
"""What makes ssh's log say how the remote command ended, by which its 255 is told from ssh's own."""
_FOR_SOMEBODY: Final = ("ConnectTimeout=30",)
"""QEMU's user network accepts a connection for a guest that is not there, and ssh would wait for its word for ever."""
_FOR_NOBODY: Final = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3")
"""A guest that hangs in the middle is noticed after 15 seconds of silence."""
_NOISE: Final = re.compile(r"debug\d: |Authenticated to |Transferred: |Bytes per second: |@{3,}|Warning: Perm")


@dataclass(frozen=True, slots=True)
class Login:
    """Where and as whom to log in to a guest, and how it proves that it is the one."""

    machine: str
    host: str
    port: int
    source: Source
    known_hosts: str
    """The file with the guest's host key, under `alias`."""
    is_pinned: bool = False
    """The host key is known beforehand; else the first one seen is kept, and no other taken from then on."""
    user: str | None = None
    """None leaves it to ssh, whose default is the name of the user here."""
    key: str | None = None
    """The file of the private key made for this machine; None for the user's own keys."""

    @property
    def alias(self) -> str:
        """The name that the guest's host key is known by, and its name in `ssh_configuration`."""
        return host_alias(self.machine)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{f'{self.user}@' if self.user else ''}{host}:{self.port}"


def host_alias(machine: str) -> str:
    """What ssh calls machine `machine`: a name that no host has."""
    return f"kvmctl-{machine}"


def ssh_command(
    login: Login, command: Sequence[str], *, terminal: bool = False, batch: bool = False, log: str | None = None
) -> list[str]:
    """The command line of ssh that logs in, and runs `command` if it has any words: ssh joins them, for a shell.

    `terminal` asks for one in the guest though a command is given; `batch` is for when nobody is there to be asked.
    `log` is a file for what ssh says, in `LOGGED`'s detail.
    """
    settings = [f"{key}={value}" for key, value in _settings(login)]
    settings += ["RemoteCommand=none", *(_FOR_NOBODY if batch else _FOR_SOMEBODY)]
    # ssh takes the first of several settings: these stand whatever the user's configuration says of every host.
    words = [word for setting in settings for word in ("-o", setting)]
    if log is not None:
        words += ["-E", log, *LOGGED]
    return ["ssh", *words, *(["-t"] if terminal else []), "--", login.alias, *command]


def ssh_configuration(login: Login) -> str:
    """The block of a configuration file by which ssh, scp, rsync and editors find the guest as ``kvmctl-NAME``."""
    lines = [f"Host {login.alias}", *(f"    {key} {value}" for key, value in _settings(login))]
    return "\n".join(lines) + "\n"


def _settings(login: Login) -> Iterator[tuple[str, str]]:
    yield "HostName", login.host.replace("%", "%%")
    yield "Port", str(login.port)
    if login.user is not None:
        yield "User", login.user
    yield "HostKeyAlias", login.alias
    yield "UserKnownHostsFile", _path(login.known_hosts)
    yield "StrictHostKeyChecking", "yes" if login.is_pinned else "accept-new"
    yield "HashKnownHosts", "no"
    yield "UpdateHostKeys", "no"
    if login.key is not None:
        yield "IdentityFile", _path(login.key)
        yield "IdentitiesOnly", "yes"
    yield "ProxyCommand", "none"
    yield "ControlPath", "none"


def _path(path: str) -> str:
    """A path as ssh_config(5) takes it: percent signs begin tokens there, and spaces end words."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def knows_host(known_hosts: str, alias: str) -> bool:
    """Whether the text of a known_hosts file has a key for `alias`."""
    return any(alias in line.split(" ")[0].split(",") for line in known_hosts.splitlines())


def find_ssh_failure(login: Login, log: str) -> KvmctlError | None:
    """The error for an ssh that ended with 255, from its log; None where the command in the guest ended so itself."""
    is_the_commands = "debug1: Exit status 255" in log or "rtype exit-signal" in log
    return None if is_the_commands else _explain(login, log)


def _explain(login: Login, log: str) -> KvmctlError:
    detail = "\n".join(line for line in log.splitlines() if line and not _NOISE.match(line))[-2000:]
    name = login.machine
    if "HOST IDENTIFICATION HAS CHANGED" in log:
        return _changed(login)
    if "Host key verification failed" in log:
        return HostKeyChanged(
            f"what answers at {login} has no host key like the one kvmctl gave to the guest of {name!r}",
            detail=detail,
            hint=_how_to_forget(login),
        )
    for pattern, summary, hint in _FAILURES:
        if pattern in log:
            return Unreachable(summary.format(name=repr(name), at=login), detail=detail, hint=hint.format(name=name))
    if "Authenticated to " in log:
        return Unreachable(f"the connection to the guest of {name!r} broke", detail=detail)
    return Unreachable(f"ssh could not log in to the guest of {name!r} at {login}", detail=detail)


_NO_SERVER: Final = "at {at} nobody in the guest of {name} answers as an ssh server"
_SSHD: Final = (
    "It may not be up yet: kvmctl wait {name} --for ssh. Is openssh-server installed and running in the guest?"
)
_FAILURES: Final = (
    (
        "Permission denied (",
        "the guest of {name} does not let us in at {at}",
        "Another user: kvmctl ssh --user USER {name}. Whom it lets in, it says on its console: kvmctl console {name}",
    ),
    ("Connection refused", "nothing listens at {at}, where the guest of {name} is to be reached", _SSHD),
    ("Connection closed by remote host\nConnection closed by ", _NO_SERVER, _SSHD),
    ("kex_exchange_identification", _NO_SERVER, _SSHD),
    ("during banner exchange", _NO_SERVER, _SSHD),
    ("No route to host", "no packet gets to {at}, where the guest of {name} was last seen", _SSHD),
    ("timed out", _NO_SERVER, _SSHD),
    ("not responding", "the guest of {name} fell silent", ""),
)  # fmt: skip
"""What is in ssh's log, in the order it is looked for; what it means, and what to do."""


def _changed(login: Login) -> HostKeyChanged:
    return HostKeyChanged(
        f"the guest of {login.machine!r} shows another host key than before",
        detail=f"at {login}; the one before is in {login.known_hosts!r}\n"
        "Either its disk was made anew, or something else answers in its place.",
        hint=_how_to_forget(login),
    )


def _how_to_forget(login: Login) -> str:
    return f"If that is as it should be: ssh-keygen -R {login.alias} -f {shlex.quote(login.known_hosts)}"
