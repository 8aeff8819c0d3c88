"""Who a command is run as, and what it finds in its environment."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from kvmctl.errors import NotFound

_PASSED_ON: Final = ("PATH", "TERM", "COLORTERM", "LANG", "LANGUAGE", "TZ", "NO_COLOR", "CI", "EDITOR", "PAGER")
"""What a command may know of the caller's environment; the rest names sockets that are not in the guest, or secrets."""
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class User:
    """A user of the guest."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


def caller() -> User:
    """Who we are, as the guest's root: there is nobody else there to whom our files belong."""
    try:
        entry = pwd.getpwuid(os.geteuid())
        home, shell = entry.pw_dir, entry.pw_shell
    except KeyError:
        home, shell = "/", ""
    return User("root", 0, 0, (0,), os.environ.get("HOME") or home, os.environ.get("SHELL") or shell or "/bin/sh")


def find_user(name: str, *, root: str) -> User:
    """The user of that name or number in the directory `root`. Raises NotFound."""
    found = _find_here(name) if os.path.realpath(root) == "/" else _find_below(name, root)
    if found is not None:
        return found
    if name.isdigit():
        return User(name, int(name), int(name), (int(name),), "/", "/bin/sh")
    raise NotFound(f"there is no user {name!r} in the guest", hint="A number will do as well: --user 1000.")


def _find_here(name: str) -> User | None:
    try:
        entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        return None
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir, entry.pw_shell or "/bin/sh")


def _find_below(name: str, root: str) -> User | None:
    """The same by the files of another system (passwd(5), group(5))."""
    for fields in _lines(f"{root}/etc/passwd", 7):
        if (fields[2] if name.isdigit() else fields[0]) == name and fields[2].isdigit() and fields[3].isdigit():
            gid = int(fields[3])
            others = (int(group[2]) for group in _lines(f"{root}/etc/group", 4) if fields[0] in group[3].split(","))
            groups = tuple(dict.fromkeys((gid, *others)))
            return User(fields[0], int(fields[2]), gid, groups, fields[5], fields[6] or "/bin/sh")
    return None


def _lines(path: str, count: int) -> Iterator[list[str]]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.rstrip("\n").split(":")
                if len(fields) == count:
                    yield fields
    except OSError:
        return


def environment(user: User, *, root: str, added: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command of `user`: a few of our own variables, and what is `added`."""
    ours = {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith("LC_")}
    if os.path.realpath(root) != "/":
        ours.pop("PATH", None)  # another tree has its programs elsewhere
    whose = {"HOME": user.home, "USER": user.name, "LOGNAME": user.name, "SHELL": user.shell}
    return {"PATH": _PATH, **ours, **whose, **added}
