"""What the words do to a Linux guest and its machine; the guest is frozen once for all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kvmctl import KvmctlError
from kvmctl.testing import keys

from .conftest import ROOT, Run

pytest_plugins = ["pytester"]

INNER = Path(__file__).parent / "inner"


@pytest.fixture(scope="session")
def guest() -> None:
    built = subprocess.run([sys.executable, ROOT / "scripts/build-guest"], capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"the guest can't be built here: {built.stderr.strip().splitlines()[-1]}")


@pytest.mark.linux
@pytest.mark.slow
@pytest.mark.usefixtures("guest")
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--vm-cold", "-k", "name or reboot or shutdown or power"),
        ("--vm-keep-failed", "-k", "power"),
        ("--vm-keep-failed", "--vm-cold", "-k", "power"),
    ],
    ids=["forks", "cold", "kept", "cold-kept"],
)
def test_a_linux_guest_understands_every_word(pytester: pytest.Pytester, run: Run, arguments: tuple[str, ...]) -> None:
    pytester.makepyfile(test_words=(INNER / "words.py").read_text())
    spec = ROOT / "machines/small-linux.toml"
    result = run("--vm-spec", str(spec), *arguments)
    assert result.ret == 0
    assert result.parseoutcomes()["passed"] >= 1


@pytest.mark.parametrize(
    ("text", "names"),
    {
        "a": ["a"],
        "A": ["shift", "a"],
        "7": ["7"],
        "&": ["shift", "7"],
        "?": ["shift", "slash"],
        '"': ["shift", "apostrophe"],
        "~": ["shift", "grave_accent"],
        "-": ["minus"],
        "ctrl-alt-delete": ["ctrl", "alt", "delete"],
        "control-c": ["ctrl", "c"],
        "enter": ["ret"],
        "f10": ["f10"],
    }.items(),
)
def test_keys_have_the_names_that_qemu_gives_them(text: str, names: list[str]) -> None:
    assert keys.chord(text) == names


def test_what_no_keyboard_has_is_refused() -> None:
    with pytest.raises(KvmctlError, match="'é' is not on a US keyboard"):
        keys.keys_of("é")
