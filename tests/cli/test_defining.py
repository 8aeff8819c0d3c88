"""``define``, ``create``, ``edit``, ``rm``: the specs of machines, and what goes with them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from .conftest import Kvmctl
from .test_terminal import terminal

SPEC = "# the web\nmemory = '64MiB'  # enough\n[[disks]]\npath = 'web.qcow2'\n"


@pytest.fixture
def spec(kvmctl: Kvmctl) -> str:
    path = kvmctl.directory / "web.toml"
    path.write_text(SPEC)
    return str(path)


def defined(kvmctl: Kvmctl, name: str) -> Path:
    return kvmctl.directory / "config" / "machines" / f"{name}.toml"


def read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


def test_a_defined_machine_keeps_its_comments_and_finds_its_files(kvmctl: Kvmctl, spec: str) -> None:
    assert kvmctl.ok("define", spec) == "web\n"
    text = defined(kvmctl, "web").read_text()
    assert "# the web" in text
    assert "# enough" in text
    assert read(defined(kvmctl, "web"))["disks"][0]["path"] == str(kvmctl.directory / "web.qcow2")
    assert defined(kvmctl, "web").stat().st_mode & 0o777 == 0o600


def test_a_spec_in_json_is_defined_as_well(kvmctl: Kvmctl) -> None:
    path = kvmctl.directory / "web.json"
    path.write_text('{"memory": "64MiB", "balloon": false, "vnc": null, "disks": [{"path": "web.qcow2"}]}')
    assert kvmctl.ok("define", str(path)) == "web\n"
    found = read(defined(kvmctl, "web"))
    assert (found["memory"], found["balloon"], "vnc" in found) == ("64MiB", False, False)
    assert found["disks"][0]["path"] == str(kvmctl.directory / "web.qcow2")


@pytest.mark.parametrize(
    ("file", "words", "code"),
    [
        ("/dev/zero", "is larger than 1MiB", 3),
        ("/dev", "Is a directory", 14),
        ("web.toml/web.toml", "Not a directory", 14),
        ("no.toml", "there is no machine spec 'no.toml'", 4),
        ("latin1.toml", "is not UTF-8 text", 3),
    ],
)
def test_what_is_no_spec_is_not_defined(kvmctl: Kvmctl, spec: str, file: str, words: str, code: int) -> None:
    (kvmctl.directory / "latin1.toml").write_bytes(b"description = '\xe9'\n")
    done = kvmctl("define", file)
    assert done.returncode == code
    assert words in done.stderr
    assert not (kvmctl.directory / "config").exists()


def test_a_wrong_spec_is_not_defined(kvmctl: Kvmctl, spec: str) -> None:
    Path(spec).write_text("memroy = '64MiB'\n")
    done = kvmctl("define", spec)
    assert done.returncode == 3
    assert "memroy" in done.stderr
    assert not defined(kvmctl, "web").exists()


@pytest.mark.qemu
def test_a_machine_goes_by_the_name_it_is_defined_under(kvmctl: Kvmctl) -> None:
    tiny = str(Path(__file__).parents[2] / "kvmctl/guest/tiny/tiny.toml")
    kvmctl.ok("define", tiny, "--name", "web")
    assert kvmctl.ok("start", "web") == "web\n"
    kvmctl.ok("kill", "web")


def test_create_writes_a_spec_from_options(kvmctl: Kvmctl) -> None:
    options = "--memory 2GiB --cpus 2 --disk web.qcow2 --disk 20GiB --cdrom d.iso --forward 2222->22 --uefi --vnc"
    kvmctl.ok("create", "web", *options.split())
    assert read(defined(kvmctl, "web")) == {
        "name": "web",
        "memory": "2GiB",
        "cpus": 2,
        "firmware": "uefi",
        "disks": [
            {"path": str(kvmctl.directory / "web.qcow2")},
            {"size": "20GiB"},
            {"device": "cdrom", "path": str(kvmctl.directory / "d.iso")},
        ],
        "networks": [{"type": "user", "forward": ["2222->22"]}],
        "vnc": True,
    }


def test_create_puts_a_machine_on_a_bridge(kvmctl: Kvmctl) -> None:
    kvmctl.ok("create", "web", "--bridge", "br0")
    assert read(defined(kvmctl, "web"))["networks"] == [{"type": "tap", "bridge": "br0"}]
    assert kvmctl("create", "another", "--bridge", "br0", "--forward", "2222->22").returncode == 2


def test_create_does_not_replace_a_machine(kvmctl: Kvmctl) -> None:
    kvmctl.ok("create", "web")
    done = kvmctl("create", "web", "--memory", "2GiB")
    assert done.returncode == 6
    assert read(defined(kvmctl, "web"))["memory"] == "1GiB"


@pytest.mark.parametrize("name", ["../web", "a b", "a,b", "a\nb", "x" * 65, "web.toml", "web.json"])
def test_a_name_that_can_not_be_one_is_not_created(kvmctl: Kvmctl, name: str) -> None:
    assert kvmctl("create", name).returncode in {3, 4}
    assert not list(kvmctl.directory.glob("**/*.toml"))


def test_an_edited_spec_takes_the_place_of_the_one_before(kvmctl: Kvmctl) -> None:
    kvmctl.ok("create", "web")
    kvmctl.ok("edit", "web", EDITOR="sed -i s/1GiB/2GiB/")
    assert read(defined(kvmctl, "web"))["memory"] == "2GiB"


def test_a_spec_with_problems_does_not(kvmctl: Kvmctl) -> None:
    kvmctl.ok("create", "web")
    done = kvmctl("edit", "web", EDITOR="sed -i s/1GiB/1GB/")
    assert done.returncode == 3
    assert "did you mean '1GiB'?" in done.stderr
    assert read(defined(kvmctl, "web"))["memory"] == "1GiB"


def test_a_change_of_somebody_else_is_not_overwritten(kvmctl: Kvmctl) -> None:
    kvmctl.ok("create", "web")
    path = defined(kvmctl, "web")
    done = kvmctl("edit", "web", EDITOR=f"sed -i s/1GiB/2GiB/ {path}")
    assert done.returncode == 7
    assert "changed by somebody else" in done.stderr


def test_an_editor_that_is_not_there_is_told(kvmctl: Kvmctl) -> None:
    kvmctl.ok("create", "web")
    done = kvmctl("edit", "web", VISUAL="no-such-editor")
    assert done.returncode == 1
    assert "'no-such-editor'" in done.stderr


@pytest.mark.parametrize(
    ("editor", "words"),
    [
        ("false", "the editor 'false' failed: it exited with status 1"),
        ("sh -c 'kill -9 $$'", "failed: SIGKILL ended it"),
        ("sed 's", "is not a command line"),
        ("rm", "left no spec"),
        ("sh -c 'printf \"\\377\" >$0'", "is not UTF-8"),
    ],
)
def test_an_editor_that_makes_a_mess_changes_nothing(kvmctl: Kvmctl, editor: str, words: str) -> None:
    kvmctl.ok("create", "web")
    before = defined(kvmctl, "web").read_text()
    done = kvmctl("edit", "web", EDITOR=editor)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert defined(kvmctl, "web").read_text() == before


def test_a_spec_left_empty_is_not_taken(kvmctl: Kvmctl) -> None:
    kvmctl.ok("create", "web")
    assert "not changed" in kvmctl("edit", "web", EDITOR="truncate -s 0").stderr
    assert read(defined(kvmctl, "web"))["memory"] == "1GiB"


def test_an_empty_name_is_not_no_name(kvmctl: Kvmctl, spec: str) -> None:
    assert kvmctl("define", spec, "--name=").returncode == 4


def test_problems_of_options_are_not_told_of_a_file_that_is_not_there(kvmctl: Kvmctl) -> None:
    done = kvmctl("create", "web", "--memory", "1GB")
    assert done.returncode == 3
    assert done.stderr.startswith("error: web: 1 problem in the machine spec")


def test_removing_lists_what_goes_and_asks_only_a_terminal(kvmctl: Kvmctl) -> None:
    kvmctl.ok("create", "web")
    done = kvmctl("rm", "web")
    assert done.returncode == 2
    assert str(defined(kvmctl, "web")) in done.stderr
    assert defined(kvmctl, "web").exists()
    with terminal(kvmctl, "rm", "web") as held:
        held.expect(b"Delete it\\?")
        held.type(b"n\n")
        assert held.wait() == 1
    assert defined(kvmctl, "web").exists()
    with terminal(kvmctl, "rm", "web") as held:
        held.expect(b"Delete it\\?")
        held.type(b"y\n")
        assert held.wait() == 0
    assert not defined(kvmctl, "web").exists()


@pytest.mark.qemu
def test_removing_takes_what_kvmctl_made_and_leaves_what_the_user_gave(kvmctl: Kvmctl) -> None:
    kvmctl.ok("create", "web", "--memory", "16MiB", "--disk", "20MiB", "--disk", "mine.raw")
    mine = kvmctl.directory / "mine.raw"
    mine.write_bytes(bytes(1 << 20))
    kvmctl.ok("start", "web")
    disk = json.loads(kvmctl.ok("show", "web", "--json"))["plan"]["disks"][0]["path"]
    assert Path(disk).exists()
    kvmctl.ok("kill", "web")
    kvmctl.ok("rm", "web", "--yes")
    assert not Path(disk).exists()
    assert mine.exists()
    assert kvmctl.ok("list", "--all", "--quiet") == ""


@pytest.mark.qemu
def test_a_running_machine_is_not_removed(kvmctl: Kvmctl) -> None:
    kvmctl.ok("start", "tiny")
    done = kvmctl("rm", "tiny", "--yes")
    assert done.returncode == 6
    assert "deletes" not in done.stderr  # for it does not
    assert kvmctl.ok("list", "--quiet") == "tiny\n"
    kvmctl.ok("kill", "tiny")
