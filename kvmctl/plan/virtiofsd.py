"""virtiofsd: what is known of the one on this host, and the helper that it makes.

There are two. The first, in C, came with QEMU until 7.2; the one in Rust has a package of its own and long options
instead of ``-o``. Neither is trusted to keep a directory read-only, which the first can't: the mounts below it are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from kvmctl.plan.helper import Helper, Tree
from kvmctl.plan.option import Fd
from kvmctl.plan.paths import MachinePaths

Cache: TypeAlias = Literal["auto", "none", "always"]
"""How long the guest may believe what it was told: for a moment, not at all, or as long as it likes."""

PACKAGES: Final = (
    "install it: apt install virtiofsd (Debian 13, Ubuntu 24.04; before, it was in qemu-system-common), "
    "dnf install virtiofsd (Fedora, RHEL), pacman -S virtiofsd (Arch), zypper install virtiofsd (openSUSE), "
    "apk add virtiofsd (Alpine); or set KVMCTL_VIRTIOFSD to the path of one"
)


@dataclass(frozen=True, slots=True)
class Virtiofsd:
    """The virtiofsd that would serve directories here, if it works."""

    path: str = ""
    options: frozenset[str] = frozenset()
    """The long options that it takes."""
    reason: str = "nobody has looked for a virtiofsd"
    """Why there is none that works; empty where there is."""

    @property
    def works(self) -> bool:
        """Whether directories can be served."""
        return not self.reason

    @property
    def is_first(self) -> bool:
        """It is the one in C, which came with QEMU."""
        return "--shared-dir" not in self.options


def understand(path: str, help_text: str) -> Virtiofsd:
    """What the virtiofsd at `path` can do, by what ``--help`` printed."""
    options = frozenset(re.findall(r"--[a-z][a-z-]+", help_text))
    if "--fd" in options and ("--shared-dir" in options or "source=PATH" in help_text):
        return Virtiofsd(path, options, "")
    return Virtiofsd(path, options, f"{path!r} helps unlike any virtiofsd known")


def virtiofsd_helper(
    daemon: Virtiofsd,
    *,
    name: str,
    path: str,
    read_only: bool,
    cache: Cache,
    submounts: bool,
    paths: MachinePaths,
    key: str,
) -> Helper:
    """The helper that serves the directory `path` of the host; the id `name` is also that of QEMU's descriptor."""
    tree = Tree(path, paths.helper_tree(name), read_only)
    listens = Fd(f"{name}-listens", prefix="--fd=")
    words = (
        _first_words(tree, cache, submounts=submounts)
        if daemon.is_first
        else _words(daemon, tree, cache, submounts=submounts)
    )
    return Helper(
        id=name,
        program="virtiofsd",
        argv=(daemon.path, listens, *words),
        listens=listens.name,
        fd=name,
        socket=paths.helper_socket(name),
        lock=paths.helper_lock(name),
        log=paths.helper_log(name),
        key=key,
        tree=tree,
    )


def _first_words(tree: Tree, cache: Cache, *, submounts: bool) -> Iterator[str]:
    escaped = re.sub(r"([\\,])", r"\\\1", tree.mount)
    yield from ("-o", f"source={escaped}", "-o", f"cache={cache}")
    if submounts:
        yield from ("-o", "announce_submounts")
    yield from ("-o", "log_level=warn")


def _words(daemon: Virtiofsd, tree: Tree, cache: Cache, *, submounts: bool) -> Iterator[str]:
    yield f"--shared-dir={tree.mount}"
    yield f"--cache={'never' if cache == 'none' else cache}"
    yield "--sandbox=namespace"
    optional = {"--readonly": tree.read_only, "--log-level=warn": True, "--inode-file-handles=never": True}
    # What later versions do unless told, and earlier ones don't.
    optional |= {"--announce-submounts": submounts, "--no-announce-submounts": not submounts}
    yield from (word for word, is_wanted in optional.items() if is_wanted and word.partition("=")[0] in daemon.options)
