"""Debian's packages installed into a directory, by mmdebstrap, as root or as anybody.

Root's way is the plain one. Anybody else is root of a user namespace with one user, under `kvmctl.image.build.pretend`,
which needs neither subordinate ids nor setuid helpers.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from kvmctl.errors import HostError, ImageError
from kvmctl.image.build import filter as seccomp
from kvmctl.image.build.mirrors import Source
from kvmctl.image.build.tools import Tools
from kvmctl.image.build.workspace import Workspace

_PACKAGES: Final = (
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    "udev",
    "iproute2",
    "qemu-guest-agent",
    "openssh-server",
    "sudo",
    "initramfs-tools",
    "zstd",
    "linux-image-cloud-amd64",
)
"""What every image has, besides the essential packages."""
_CLOUD_INIT_PACKAGES: Final = ("cloud-init", "netplan.io")

_HERE: Final = os.path.dirname(os.path.abspath(__file__))
_NODES: Final = "null zero full random urandom tty"
_EXCLUDED: Final = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*")
_COPIED: Final = ("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-")
"""Whatever changes them makes a new file with the owner of the one before, as it sees it: root."""
_SHADOW: Final = 42
"""The group shadow, by base-passwd's list of what is the same on all Debians."""
_LOG_LINES: Final = 30

STEPS: Final = {
    "running apt-get update": "Getting the lists of packages",
    "downloading packages": "Getting the packages",
    "extracting archives": "Unpacking the essential packages",
    "installing essential": "Installing the essential packages",
    "installing remaining": "Installing the other packages",
}
"""What mmdebstrap says of itself, and what it means to who waits for it."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A file that is not root's, by its path in the image."""

    path: str
    uid: int
    gid: int


def base_packages(suite: str, *, cloud_init: bool) -> list[str]:
    """What an image of `suite` has without being asked to; later suites have systemd-repart apart from systemd."""
    repart = () if suite == "bookworm" else ("systemd-repart",)
    return [*_PACKAGES, *repart, *(_CLOUD_INIT_PACKAGES if cloud_init else ())]


def bootstrap(
    space: Workspace,
    *,
    suite: str,
    sources: Sequence[Source],
    packages: Iterable[str],
    settings: Iterable[str],
    tools: Tools,
    on_line: Callable[[str], None],
) -> list[Owner]:
    """Install `packages` of `suite` in the workspace's ``root``; the files whose owner is yet to be set.

    `settings` are apt's own, as for ``-o``. `on_line` is told what mmdebstrap says. Raises HostError, ImageError.
    """
    root, record = space.file("root"), space.file("owners.json")
    is_root = os.geteuid() == 0
    argv = [
        *_isolation(is_root=is_root),
        *_filtered(root, record, is_root=is_root),
        *mmdebstrap_command(tools, suite=suite, packages=packages, settings=settings, is_root=is_root),
        root,
        *(source.line for source in sources),
    ]
    _run(argv, env={**tools.environment, "TMPDIR": space.path, "HOME": space.path}, space=space, on_line=on_line)
    if is_root:
        return []
    with open(record, encoding="ascii") as file:
        noted = [Owner(*item) for item in json.load(file)]
    known = {owner.path for owner in noted}
    return [*noted, *(Owner(path, 0, _SHADOW) for path in _COPIED if path not in known)]


def mmdebstrap_command(
    tools: Tools, *, suite: str, packages: Iterable[str], settings: Iterable[str], is_root: bool
) -> list[str]:
    """mmdebstrap with all its options; where to, and from where, come behind."""
    options = [f"--aptopt={setting}" for setting in ('APT::Install-Recommends "false"', 'APT::Sandbox::User "root"')]
    options += [f"--aptopt={setting}" for setting in settings]
    options += [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED]
    options += ["--dpkgopt=path-include=/usr/share/doc/*/copyright", "--dpkgopt=force-confold"]
    # Else the package usrmerge would turn /bin into a link at last, for which it needs all of Perl.
    options += [f"--hook-dir={os.path.join(tools.hooks, 'merged-usr')}", "--essential-hook=" + _copy_tree_command()]
    bind, release = ([], []) if is_root else _device_hooks()
    options += [*bind, f"--customize-hook={os.path.join(_HERE, 'customize')}", *release]
    wanted = f"--include={','.join(packages)}"
    return [tools.mmdebstrap, "--mode=root", "--variant=minbase", wanted, "--format=directory", *options, suite]


def _copy_tree_command() -> str:
    """Before the packages that look at it: the kernel's, which make an initramfs by what the tree says."""
    return f'cp -R --preserve=mode "{os.path.join(_HERE, "tree")}/." "$1"'


def _device_hooks() -> tuple[list[str], list[str]]:
    """What lends the devices of this host to a directory, and takes them back.

    Who is nobody but root of a namespace can neither make devices nor mount devpts, as mmdebstrap would.
    """
    bind = f'for n in {_NODES}; do rm -f "$1/dev/$n"; : >"$1/dev/$n"; mount --bind "/dev/$n" "$1/dev/$n"; done'
    release = f'for n in {_NODES}; do umount "$1/dev/$n"; rm -f "$1/dev/$n"; done; rm -f "$1/dev/fd"'
    lend = ["--skip=chroot/mount/dev", f'--extract-hook={bind}; ln -sfn /proc/self/fd "$1/dev/fd"']
    return lend, [f"--customize-hook={release}"]


def _isolation(*, is_root: bool) -> list[str]:
    """Processes and mounts of its own: all of it ends with its first process, which ends with us."""
    tied = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", *([] if is_root else ["--map-root-user"])]
    return [*tied, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]


def _filtered(root: str, record: str, *, is_root: bool) -> list[str]:
    program = seccomp.syncs_only() if is_root else seccomp.all_of_it()
    return [sys.executable, "-I", os.path.join(_HERE, "pretend.py"), program.hex(), "" if is_root else root, record]


def _run(argv: list[str], *, env: dict[str, str], space: Workspace, on_line: Callable[[str], None]) -> None:
    """Run mmdebstrap, telling of each line as it comes. Raises HostError, ImageError; no process is left."""
    said: list[str] = []
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=env,
        pass_fds=[space.lock],
        umask=0o022,
    ) as process:
        assert process.stdout is not None  # noqa: S101  # PIPE above
        try:
            for line in process.stdout:
                said.append(line.rstrip())
                on_line(line.rstrip())
        except BaseException:
            process.kill()
            process.stdout.read()  # until the last of its processes is gone, and with it what it might still write
            raise
    if process.returncode:
        raise explain(said, os.path.dirname(space.path))


def explain(said: list[str], place: str) -> HostError | ImageError:
    """What mmdebstrap's words come to, having failed in the directory `place`."""
    text = "\n".join(said)
    detail = "\n".join([line for line in said if re.match(r"[EW]:|Err:", line)] or said[-_LOG_LINES:])
    if "No space left on device" in text:
        return ImageError(
            f"no space is left in {place!r}",
            detail=detail,
            hint="Free some, or point KVMCTL_CACHE_DIR elsewhere.",
        )
    if any(line.startswith("unshare:") for line in said):
        hint = "Allow them (sysctl kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu), or run this as root."
        return HostError("this host allows no namespaces to build in", detail=detail, hint=hint)
    if "Unable to locate package" in text:
        return ImageError("a package is not there", detail=detail, hint="Look for its name: apt-cache search.")
    if "Err:" in text or "Failed to fetch" in text:
        return HostError(
            "the packages can't be fetched",
            detail=detail,
            hint="See whether apt-get update works here, or name another --mirror.",
        )
    return ImageError("the packages can't be installed", detail=detail)
