"""What renews a fork's guest: its bytes are those of its source, and it says what it could not do."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from kvmctl.guest import renew
from kvmctl.guest.renew import PROGRAM
from kvmctl.guest.renewal import ERRORS, SEED_BYTES, Renewal

GIVEN = Renewal(1_700_000_000_123_456_789, bytes(range(SEED_BYTES)), "fork-1")
UNPRIVILEGED = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]


@pytest.fixture
def program(tmp_path: Path) -> str:
    """The program as a guest has it."""
    copy = tmp_path / "renew"
    shutil.copy(PROGRAM, copy)
    copy.chmod(0o755)
    for directory in (tmp_path, *tmp_path.parents):
        if os.stat(directory).st_uid == os.geteuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o011)  # for the one without privileges
    return str(copy)


def test_source_assembles_to_the_shipped_bytes() -> None:
    for name in (os.environ.get("AS", "as"), os.environ.get("LD", "ld")):
        if shutil.which(name) is None:
            pytest.skip(f"{name} (binutils) is not installed")
    subprocess.run([Path(__file__).parents[2] / "scripts/build-renew", "--check"], check=True)


def test_source_and_documentation_agree_on_numbers_and_sizes() -> None:
    source = Path(PROGRAM).with_name("renew.S").read_text()
    assert f".set    SEED, {SEED_BYTES} " in source
    for number in ERRORS:
        assert number == 1 or f"# {number}: " in source


def test_what_it_is_given_is_a_time_a_pool_and_a_name() -> None:
    data = GIVEN.dumps()
    assert struct.unpack_from("<qqii", data) == (1_700_000_000, 123_456_789, 8 * SEED_BYTES, SEED_BYTES)
    assert data[24:88] == GIVEN.seed
    assert data[88:] == b"fork-1"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the program is for x86-64")
def test_the_program_says_what_it_could_not_do(program: str) -> None:
    told_little = subprocess.run([program], input=GIVEN.dumps()[:80], check=False)
    assert ERRORS[told_little.returncode] == "was told too little"
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can take its own privileges away (setpriv)")
    refused = subprocess.run([*UNPRIVILEGED, program], input=GIVEN.dumps(), check=False)
    assert ERRORS[refused.returncode] == "can't seed the random numbers"


@pytest.mark.parametrize("command", renew.INTERPRETERS, ids=lambda command: command[0])
def test_interpreters_that_are_told_too_little_or_may_not_do_it_say_so(command: tuple[str, ...]) -> None:
    if shutil.which(command[0]) is None or os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip(f"{command[0]} or setpriv is not installed, or we are not root")
    done = subprocess.run([*UNPRIVILEGED, *command], input=GIVEN.dumps(), capture_output=True, check=False)
    assert done.returncode != 0
