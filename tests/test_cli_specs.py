"""``argv``, ``validate`` and ``schema``: what they print, and that they touch nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inotify_simple import INotify, flags

Kvmctl = Callable[..., subprocess.CompletedProcess[str]]
WITHOUT_QEMU = {"KVMCTL_QEMU": "/nowhere/qemu"}
RIGHT = "memory = '64MiB'\n[[disks]]\npath = 'not-there.qcow2'\n"
WRONG = "memroy = '64MiB'\ncpus = 'two'\n"


@pytest.fixture
def roots(tmp_path: Path) -> dict[str, str]:
    kinds = ("CONFIG", "STATE", "RUNTIME", "CACHE")
    return {f"KVMCTL_{kind}_DIR": str(tmp_path / "roots" / kind.lower()) for kind in kinds}


@pytest.fixture
def kvmctl(tmp_path: Path, roots: dict[str, str]) -> Kvmctl:
    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kvmctl", *words],
            env=os.environ | roots | environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))


@pytest.fixture
def spec(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str, *, name: str = "web.toml") -> str:
        (tmp_path / name).write_text(text)
        return f"./{name}"

    return write


Spec = Callable[..., str]


@pytest.mark.qemu
def test_argv_prints_one_option_a_line_and_touches_nothing(kvmctl: Kvmctl, spec: Spec, tmp_path: Path) -> None:
    done = kvmctl("argv", spec(RIGHT))
    assert done.returncode == 0, done.stderr
    binary, *options = done.stdout.splitlines()
    assert Path(binary).is_absolute()
    assert all(option.startswith("-") for option in options)
    assert "-name guest=web,debug-threads=on" in options
    assert [path.name for path in tmp_path.iterdir()] == ["web.toml"]


@pytest.mark.qemu
def test_argv_explains_every_option(kvmctl: Kvmctl, spec: Spec) -> None:
    text = kvmctl("argv", spec(f"acpi = false\n{RIGHT}"), "--explain").stdout
    explained: dict[str, list[str]] = {}
    for line in text.splitlines()[1:]:
        if line.startswith("-"):
            reasons = explained[line] = []
        else:
            assert line.startswith("    ")
            reasons.append(line.strip())
    assert all(explained.values())
    assert explained["-m size=64M"] == ["memory.size"]
    assert explained["-nodefaults"] == ["default: only what the spec asks for exists"]
    (machine,) = [lines for option, lines in explained.items() if option.startswith("-machine")]
    assert machine[0] == "default: q35, pinned to the version that is started first"
    assert "acpi: acpi" in machine


@pytest.mark.qemu
def test_argv_in_json_has_the_same_words(kvmctl: Kvmctl, spec: Spec) -> None:
    record = json.loads(kvmctl("argv", spec(RIGHT), "--json").stdout)
    assert record["schema"] == 1
    plain = kvmctl("argv", spec(RIGHT)).stdout.splitlines()
    assert plain[0] == record["qemu"]
    assert plain[1:] == [" ".join(option["words"]) for option in record["options"]]
    (memory,) = [option for option in record["options"] if option["words"][0] == "-m"]
    assert memory == {"words": ["-m", "size=64M"], "why": "memory.size", "reasons": {"size": "memory.size"}}
    assert record["argv"] == [record["qemu"], *(word for option in record["options"] for word in option["words"])]


def test_argv_prints_one_form_at_a_time(kvmctl: Kvmctl, spec: Spec) -> None:
    assert kvmctl("argv", spec(RIGHT), "--json", "--shell").returncode == 2


@pytest.mark.qemu
def test_the_script_runs_the_machine(kvmctl: Kvmctl, tmp_path: Path, roots: dict[str, str]) -> None:
    tiny = Path(__file__).parent.parent / "machines/tiny.toml"
    script = kvmctl("argv", str(tiny), "--shell").stdout
    directory = Path(roots["KVMCTL_RUNTIME_DIR"], "tiny")
    directory.mkdir(parents=True)
    with (tmp_path / "log").open("wb") as log, INotify() as changes:
        changes.add_watch(directory, flags.MODIFY)
        shell = subprocess.Popen(
            ["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_ready(changes, directory / "console.log")
            assert monitor_says(directory / "qmp.sock", "query-status")["running"]
            assert shell.wait(30) == 0
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)
                shell.wait()
    assert (tmp_path / "log").read_text() == ""


def wait_ready(changes: INotify, console: Path) -> None:
    """Until the guest has said that it runs; a minute without a word is too long."""
    while not console.exists() or "READY" not in console.read_text():
        assert changes.read(timeout=60_000), "the guest is silent"


def monitor_says(path: Path, command: str) -> Any:
    """What `command` returns; QEMU is told to quit after it."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(30)
        monitor.connect(str(path))
        words = [{"execute": word} for word in ("qmp_capabilities", command, "quit")]
        monitor.sendall("".join(map(json.dumps, words)).encode())
        replies = [json.loads(line) for line in monitor.makefile()]
    return [reply["return"] for reply in replies if "return" in reply][1]


def test_validate_names_every_problem_of_every_spec(kvmctl: Kvmctl, spec: Spec) -> None:
    done = kvmctl("validate", spec(WRONG), spec("[[disks]]\n", name="db.toml"), **WITHOUT_QEMU)
    assert done.returncode == 3
    for words in ("memroy", "did you mean 'memory'", "cpus", "db.toml", "disks[0]"):
        assert words in done.stderr


def test_validate_in_json_has_keys_and_places(kvmctl: Kvmctl, spec: Spec) -> None:
    done = kvmctl("validate", spec(WRONG), "--json", **WITHOUT_QEMU)
    [record] = json.loads(done.stdout)["specs"]
    assert done.returncode == 3
    assert (record["spec"], record["valid"]) == ("./web.toml", False)
    assert {problem["key"] for problem in record["problems"]} == {"memroy", "cpus"}


def test_a_right_spec_on_a_host_without_qemu_is_valid_with_a_warning(kvmctl: Kvmctl, spec: Spec) -> None:
    done = kvmctl("validate", spec(RIGHT), **WITHOUT_QEMU)
    assert done.returncode == 0
    assert done.stdout == "./web.toml: no problems\n"
    assert "can't run here: there is no executable '/nowhere/qemu'" in done.stderr


@pytest.mark.qemu
def test_validate_finds_what_this_qemu_lacks(kvmctl: Kvmctl, spec: Spec) -> None:
    done = kvmctl("validate", spec("machine = 'pc-q35-99.0'\n[cpu]\nmodel = 'Skylake'\n"))
    assert done.returncode == 3
    assert "'pc-q35-99.0'" in done.stderr
    assert "'Skylake'" in done.stderr


@pytest.mark.parametrize("verb", ["validate", "argv", "start", "run"])
def test_what_this_qemu_lacks_is_told_together_with_wrong_keys(kvmctl: Kvmctl, spec: Spec, verb: str) -> None:
    done = kvmctl(verb, spec("machine = 'q36'\ncpus = 0\n[boot]\norder = ['dsk']\n[[disks]]\nsize = '1GiB'\n"))
    assert done.returncode == 3
    assert [line.split(": ")[1] for line in done.stderr.splitlines()[1:]] == ["cpus", "boot.order[0]", "machine"]


def test_a_spec_that_is_not_there_is_not_found(kvmctl: Kvmctl) -> None:
    done = kvmctl("validate", "./gone.toml")
    assert done.returncode == 4
    assert "gone.toml" in done.stderr


def test_the_schema_is_one(kvmctl: Kvmctl) -> None:
    done = kvmctl("schema")
    assert json.loads(done.stdout)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
