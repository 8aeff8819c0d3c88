"""Whether the host and its QEMU are still what they were, told from files' stamps and without asking them anew.

Where a start takes a plan from the cache this is all it looks at, so nothing is imported here that takes time.
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Mapping
from typing import Final

from kvmctl.errors import QemuNotFound
from kvmctl.host.binary import stamp

BINARY: Final = "qemu-system-x86_64"
ELSEWHERE: Final = ("/usr/libexec/qemu-kvm", "/usr/bin/kvm")
"""Where distributions put it that don't put it on PATH under its own name: Red Hat's, and Debian's old wrapper."""

PACKAGES: Final = (
    "install it: apt install qemu-system-x86 (Debian, Ubuntu), dnf install qemu-kvm (Fedora, RHEL), "
    "pacman -S qemu-base (Arch), zypper install qemu-x86 (openSUSE), apk add qemu-system-x86_64 (Alpine); "
    "or set KVMCTL_QEMU to the path of a qemu-system-x86_64"
)

FIRMWARE_DIRECTORIES: Final = ("/usr/share/qemu/firmware", "/etc/qemu/firmware")
"""The distribution's and the administrator's; the user's is ``$XDG_CONFIG_HOME/qemu/firmware``. Later ones win."""

VHOST_USER_DIRECTORIES: Final = ("/etc/qemu/vhost-user", "/usr/share/qemu/vhost-user")
"""Where programs that serve QEMU's devices are described, the user's own apart (docs/interop/vhost-user.json)."""
VIRTIOFSD_PATHS: Final = ("/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd")
"""Where distributions put it, off PATH."""

_NODES: Final = ("/dev/kvm", "/dev/vhost-net", "/dev/vhost-vsock", "/dev/net/tun")
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_HUGEPAGES: Final = "/sys/kernel/mm/hugepages"


def find_qemu(explicit: str | None = None, *, env: Mapping[str, str]) -> str:
    """The absolute path of the QEMU to use: `explicit`, else ``$KVMCTL_QEMU``, else the one the distribution installed.

    A name without a slash is looked up on PATH. Raises QemuNotFound.
    """
    for asked, origin in ((explicit, "the spec"), (env.get("KVMCTL_QEMU"), "KVMCTL_QEMU")):
        if asked:
            if found := shutil.which(asked, path=env.get("PATH")):
                return os.path.abspath(found)
            raise QemuNotFound(f"there is no executable {asked!r}, which {origin} names as QEMU", hint=PACKAGES)
    for name in (BINARY, *ELSEWHERE):
        if found := shutil.which(name, path=env.get("PATH")):
            return os.path.abspath(found)
    raise QemuNotFound(f"QEMU was not found: no {BINARY} on PATH, no {' and no '.join(ELSEWHERE)}", hint=PACKAGES)


def firmware_directories(env: Mapping[str, str], *, of_all: tuple[str, ...] = FIRMWARE_DIRECTORIES) -> tuple[str, ...]:
    """Where firmware descriptors are looked for, the user's own last; by QEMU's docs/interop/firmware.json."""
    config = env.get("XDG_CONFIG_HOME") or (f"{env['HOME']}/.config" if env.get("HOME") else "")
    return (*of_all, *((f"{config}/qemu/firmware",) if config else ()))


def list_descriptors(env: Mapping[str, str]) -> list[str]:
    """The files that describe programs which serve QEMU's devices, in the order in which they count."""
    config = env.get("XDG_CONFIG_HOME") or (f"{env['HOME']}/.config" if env.get("HOME") else "")
    own = (f"{config}/qemu/vhost-user",) if config else ()
    return [file for place in (*own, *VHOST_USER_DIRECTORIES) for file in _list(place) if file.endswith(".json")]


def identify_host(env: Mapping[str, str]) -> list[object]:
    """What changes whenever something does that decides how a machine is compiled, a KVM that comes and goes apart."""
    return [
        _read(_BOOT_ID),
        [_stamp_node(node) for node in _NODES],
        [os.geteuid(), os.getegid(), sorted(os.getgroups()), find_user_name()],
        [len(os.sched_getaffinity(0)), os.sysconf("SC_PHYS_PAGES")],
        [_read(os.path.join(pool, "free_hugepages")) for pool in _list(_HUGEPAGES)],
        shutil.which("setpriv"),
        [stamp(file) for place in firmware_directories(env) for file in _list(place) if file.endswith(".json")],
        [env.get("KVMCTL_VIRTIOFSD"), shutil.which("virtiofsd")],
        [stamp(file) for file in (*list_descriptors(env), *VIRTIOFSD_PATHS) if os.path.exists(file)],
    ]


def find_user_name() -> str:
    """The login name of whoever runs this; empty where there is none, as in a container that makes up its user."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _list(directory: str) -> list[str]:
    """The paths of what is in `directory`, sorted; nothing where there is no such directory."""
    try:
        return sorted(os.path.join(directory, name) for name in os.listdir(directory))
    except FileNotFoundError:
        return []


def _stamp_node(path: str) -> list[int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_ino, status.st_ctime_ns]
