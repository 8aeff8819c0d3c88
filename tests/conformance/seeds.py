"""What the guests of the example specs are told, as text that can be reviewed: the files of a seed, or credentials.

It is made as a start makes it, of invented keys and passwords, and a seed is read back by xorriso.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest.mock import patch

from golden import GOLDEN, HOST, RECORDINGS, ROOTS, SPECS, load_spec, recorded_facts

from kvmctl.compile import compile_plan
from kvmctl.plan.guest import FirstBoot, Source, TellGuest
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.firstboot import tell_guest
from kvmctl.runtime.made import Made

SEEDS = GOLDEN / "seeds"
TOLD = (*(name for name in SPECS if name.startswith("guest-")), "guest-nocloud@credentials", "guest-shares@credentials")
"""Example specs that say something of the guest; after an ``@`` another way of telling it the same."""
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtDDLIXxnAgmyhMF3YXbS3PcyVBYCmwJo4a+HVDUz3c"
RAW = {
    "guest.user_data": "#cloud-config\npackages: [nginx]\n",
    "guest.network_config": "version: 2\nethernets: {eth0: {dhcp4: true}}\n",
    "guest.vendor_data": "#cloud-config\ntimezone: UTC\n",
}


def told_text(name: str, directory: Path) -> str:
    """The text of one golden. The files are made in `directory`, which is empty."""
    step = _step(name, directory)
    keys = {"id_ed25519.pub": f"{KEY} kvmctl\n", "host_ed25519": "(the guest's own key)\n", "host_ed25519.pub": KEY}
    for file, text in keys.items():
        _write(directory / "ssh" / file, text)
    _write(directory / ".ssh/id_ed25519.pub", f"{KEY} alice\n")
    started = MachinePaths("told", str(directory / "run"), str(directory / "state"))
    (directory / "run").mkdir()
    with patch.dict(os.environ, {"HOME": str(directory), **_invent(step.first_boot)}):
        tell_guest(step, Made(started))
    return "".join(f"=== {name}\n{text}" for name, text in sorted(_read_back(step, directory).items()))


def _step(name: str, directory: Path) -> TellGuest:
    spec, _, way = name.partition("@")
    _write(directory / f"{spec}.toml", SPECS[spec].read_text())
    machine = load_spec(spec, base=str(directory))
    qemu = recorded_facts(next(iter(RECORDINGS)))  # what a guest is told has nothing to do with which it is
    plan = compile_plan(machine, host=HOST, qemu=qemu, paths=ROOTS.machine(machine.name))
    (step,) = [step for step in plan.steps if isinstance(step, TellGuest)]
    recipe = step.first_boot._replace(way="credentials") if way == "credentials" else step.first_boot
    return step._replace(first_boot=recipe, directory=str(directory / "guest"), ssh=str(directory / "ssh"))


def _invent(recipe: FirstBoot) -> Mapping[str, str]:
    """Write the files that the recipe names; the variables that it names, with their values."""
    texts = dict(_texts(recipe))
    for source, text in texts.items():
        if source.kind == "file":
            _write(Path(source.value), f"{text}\n")
    return {source.value: text for source, text in texts.items() if source.kind == "env"}


def _texts(recipe: FirstBoot) -> Iterator[tuple[Source, str]]:
    for source in recipe.sources():
        yield source, RAW.get(source.key, f"(content of {source.key})")
    for user in recipe.users:
        yield from ((key, f"{KEY} {Path(key.value).name}") for key in user.keys)
        if user.password is not None:
            yield user.password, "$6$salt$the-hash-of-it" if user.password_is_hash else f"password-of-{user.name}"


def _read_back(step: TellGuest, directory: Path) -> dict[str, str]:
    made = Path(step.directory)
    if step.first_boot.way == "nocloud":
        seed, made = made / "seed.iso", directory / "extracted"
        argv = ["xorriso", "-no_rc", "-osirrox", "on", "-indev", str(seed), "-extract", "/", str(made)]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return {path.name: path.read_text() for path in made.iterdir() if path.name != "digest"}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
