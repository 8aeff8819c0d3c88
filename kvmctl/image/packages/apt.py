"""The distribution's packages, by apt and without privileges: what there is, what it needs, its file.

Packages come from where this system's own come from, and apt checks them as it always does. Where its lists are missing
or stale, they are fetched into a private place; the system's own are never touched.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kvmctl.errors import AptError

_NAME = re.compile(r"[\s:(]")
"""Where a package's name ends in a dependency: ``libc6:any (>= 2.34)``."""


@dataclass(slots=True)
class Apt:
    """apt, keeping what it fetches under `directory`."""

    directory: Path
    _private: bool = field(default=False, init=False)
    _records: dict[str, dict[str, str]] = field(default_factory=dict, init=False)

    def find_candidate(self, names: Iterable[str]) -> str | None:
        """The first of `names` that can be had; None where none can. Raises AptError."""
        wanted = list(names)
        self._look_up(wanted)
        return next((name for name in wanted if self._records[name]), None)

    def version(self, name: str) -> str:
        """The version that would be installed."""
        return self._record(name)["Version"]

    def depends(self, name: str) -> list[str]:
        """The packages that `name` needs; of alternatives the first that can be had. Versions are left to apt."""
        record = self._record(name)
        items = f"{record.get('Pre-Depends', '')},{record.get('Depends', '')}".split(",")
        choices = [[_NAME.split(choice.strip(), maxsplit=1)[0] for choice in item.split("|")] for item in items]
        self._look_up([name for names in choices for name in names])
        found = (self.find_candidate(names) for names in choices)
        return [name for name in found if name]

    def download(self, name: str) -> Path:
        """The file of a package, fetched unless it is here already. Raises AptError."""
        try:
            return self._download(name)
        except AptError:
            if self._private:
                raise
            self.refresh()  # the system's lists may name a file that the mirror has replaced since
            return self._download(name)

    def index_targets(self) -> str:
        """All that apt knows of where packages come from, as ``apt-get indextargets`` prints it. Raises AptError."""
        asked = ("apt-get", "indextargets", "Created-By: Packages")
        if "\nOrigin: " not in (known := self._run(*asked)) and not self._private:
            self.refresh()  # without the lists it is only known where they are
            return self._run(*asked)
        return known

    def settings(self, prefix: str) -> list[str]:
        """The settings whose names begin so, each as apt.conf(5) has it, without its semicolon. Raises AptError."""
        lines = self._run("apt-config", "dump").splitlines()
        return [line.removesuffix(";") for line in lines if line.startswith(prefix) and not line.endswith('"";')]

    def refresh(self) -> None:
        """Fetch lists of our own and use them from now on. Raises AptError."""
        self._private = True
        self._records.clear()
        (self.directory / "state/lists/partial").mkdir(parents=True, exist_ok=True)
        self._run("apt-get", "update", "--quiet", "-o", "APT::Update::Error-Mode=any")

    def forget(self) -> None:
        """Remove what was made only to ask apt; the packages themselves stay for the next time."""
        for part in ("cache", "state"):
            shutil.rmtree(self.directory / part, ignore_errors=True)

    def _download(self, name: str) -> Path:
        record = self._record(name)
        packages = self.directory / "debs"
        packages.mkdir(parents=True, exist_ok=True)
        version = record["Version"].replace(":", "%3a")  # as apt names the files it downloads
        path = packages / f"{name}_{version}_{record['Architecture']}.deb"
        if not _is_intact(path, record):
            self._run("apt-get", "download", "--quiet", name, directory=packages)
        if not _is_intact(path, record):
            raise AptError(f"package {name!r} was fetched, and {path} is not what it should be")
        return path

    def _record(self, name: str) -> dict[str, str]:
        self._look_up([name])
        if not self._records[name]:
            raise AptError(f"apt knows no package {name!r}")
        return self._records[name]

    def _look_up(self, names: Iterable[str]) -> None:
        """Ask apt, all at once, for what it knows of the packages it would install; nothing for unknown ones."""
        unknown = [name for name in dict.fromkeys(names) if name not in self._records]
        if not unknown:
            return
        self._records |= {name: {} for name in unknown}
        shown = self._run("apt-cache", "show", "--no-all-versions", *unknown, may_fail=True)
        for stanza in shown.split("\n\n"):
            fields = (line.partition(": ") for line in stanza.splitlines() if not line.startswith(" "))
            record = {key: value for key, _, value in fields}
            if record.get("Package") in unknown:
                self._records[record["Package"]] = record

    def _options(self) -> list[str]:
        # Run by root, apt would fetch as a user that can't write here. And without an index it may keep (containers
        # forbid that), each call would take a second to make one.
        options = ["-o", "APT::Sandbox::User=root", "-o", f"Dir::Cache={self.directory}/cache"]
        for kind in ("pkgcache", "srcpkgcache"):
            options += ["-o", f"Dir::Cache::{kind}={kind}.bin"]
        if self._private:
            options += ["-o", f"Dir::State={self.directory}/state", "-o", "Dir::State::status=/var/lib/dpkg/status"]
        return options

    def _run(self, program: str, *arguments: str, directory: Path | None = None, may_fail: bool = False) -> str:
        (self.directory / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
        if shutil.which(program) is None:
            raise AptError(f"{program!r} is not here", hint="What is made of packages is made on Debian or Ubuntu.")
        done = subprocess.run(
            [program, *self._options(), *arguments], cwd=directory, capture_output=True, text=True, check=False
        )
        if done.returncode and not may_fail:
            raise AptError(f"{program} {' '.join(arguments)} failed", detail=done.stderr.strip())
        return done.stdout


def _is_intact(path: Path, record: dict[str, str]) -> bool:
    if not path.exists() or path.stat().st_size != int(record["Size"]):
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == record["SHA256"]
