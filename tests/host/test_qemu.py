"""Finding and probing QEMU: with scripts that say what a real one said, and with the real one."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kvmctl.errors import HostError, QemuNotFound, QemuTooOld
from kvmctl.host import identity, qemu
from kvmctl.host.identity import find_qemu
from kvmctl.host.qemu import QUERIES, probe_qemu, qemu_facts
from kvmctl.plan.features import Feature
from kvmctl.plan.replies import facts_from_replies

RECORDING = json.loads((Path(__file__).parent.parent / "data/qemu/7.2.json").read_text())["replies"]
ENV = {"PATH": os.environ["PATH"]}

FakeQemu = Callable[..., Path]


def transcript(**changes: object) -> str:
    """What a QEMU 7.2 prints when probed, with some replies changed."""
    replies = RECORDING | changes
    greeting = {"QMP": {"version": replies["version"]["return"], "capabilities": []}}
    lines = [greeting, {"return": {}, "id": ""}, *({**reply, "id": name} for name, reply in replies.items())]
    return "".join(json.dumps(line) + "\r\n" for line in lines)


@pytest.fixture
def fake_qemu(tmp_path: Path) -> FakeQemu:
    """Makes an executable that prints a transcript and counts its runs in the file ``runs``."""

    def make(text: str = transcript(), *, name: str = "qemu-system-x86_64", extra: str = "") -> Path:
        (tmp_path / f"{name}.out").write_text(text)
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{extra}\necho run >>{tmp_path}/runs\nexec /bin/cat {tmp_path}/{name}.out\n")
        path.chmod(0o755)
        return path

    return make


def runs(tmp_path: Path) -> int:
    file = tmp_path / "runs"
    return len(file.read_text().splitlines()) if file.exists() else 0


# --- finding


def executable(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return str(path)


def test_the_spec_outranks_the_environment_which_outranks_path(tmp_path: Path) -> None:
    spec, variable, on_path = (executable(tmp_path / name / "qemu-system-x86_64") for name in ("spec", "env", "path"))
    env = {"PATH": str(tmp_path / "path"), "KVMCTL_QEMU": variable}
    assert find_qemu(spec, env=env) == spec
    assert find_qemu(env=env) == variable
    assert find_qemu(env={"PATH": str(tmp_path / "path")}) == on_path


def test_a_bare_name_is_looked_up_on_path(tmp_path: Path) -> None:
    mine = executable(tmp_path / "my-qemu")
    assert find_qemu("my-qemu", env={"PATH": str(tmp_path)}) == mine


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = executable(tmp_path / "build" / "qemu")
    monkeypatch.chdir(tmp_path)
    assert find_qemu("build/qemu", env=ENV) == mine


def test_a_binary_asked_for_that_is_not_there_is_never_replaced_by_another(tmp_path: Path) -> None:
    executable(tmp_path / "qemu-system-x86_64")
    env = {"PATH": str(tmp_path), "KVMCTL_QEMU": "/nowhere/qemu"}
    with pytest.raises(QemuNotFound, match="there is no executable '/nowhere/qemu', which KVMCTL_QEMU names as QEMU"):
        find_qemu(env=env)


def test_without_qemu_the_error_names_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "ELSEWHERE", ())
    with pytest.raises(QemuNotFound) as caught:
        find_qemu(env={"PATH": str(tmp_path)})
    for package in ("apt install qemu-system-x86", "dnf install qemu-kvm", "pacman -S qemu-base"):
        assert package in caught.value.hint


# --- probing


def test_a_probe_keeps_every_reply_as_it_was(fake_qemu: FakeQemu) -> None:
    assert probe_qemu(str(fake_qemu())) == RECORDING


def test_a_qemu_is_heard_to_its_last_reply_and_need_not_end_by_itself(fake_qemu: FakeQemu) -> None:
    path = fake_qemu()
    path.write_text(path.read_text().replace("exec /bin/cat", "/bin/cat") + "exec sleep 600\n")
    assert probe_qemu(str(path)) == RECORDING


def test_an_old_qemu_is_refused_by_version_and_path(fake_qemu: FakeQemu) -> None:
    old = {"return": {"qemu": {"major": 6, "minor": 2, "micro": 0}, "package": "Debian 1:6.2"}}
    path = fake_qemu(transcript(version=old))
    with pytest.raises(QemuTooOld) as caught:
        probe_qemu(str(path))
    assert caught.value.summary == f"QEMU 6.2.0 at {str(path)!r} is too old: kvmctl needs 7.2 or newer"


def test_something_else_than_qemu_is_quoted(fake_qemu: FakeQemu) -> None:
    path = fake_qemu("hello\n", extra="echo 'no such machine' >&2")
    with pytest.raises(HostError, match="does not start as a QEMU system emulator") as caught:
        probe_qemu(str(path))
    assert caught.value.detail == "no such machine\n"


def test_a_qemu_that_ends_in_the_middle_is_quoted(fake_qemu: FakeQemu) -> None:
    path = fake_qemu("".join(transcript().splitlines(keepends=True)[:4]), extra="echo 'Aborted' >&2")
    with pytest.raises(HostError, match="ended before it replied to query-qmp-schema") as caught:
        probe_qemu(str(path))
    assert caught.value.detail == "Aborted\n"


def test_a_silent_binary_is_given_up_at_the_deadline(fake_qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "DEADLINE", 0.2)
    path = fake_qemu(extra="exec sleep 60")
    with pytest.raises(HostError, match="did not answer within"):
        probe_qemu(str(path))


def test_a_binary_without_end_is_bounded(fake_qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "OUTPUT_LIMIT", 10_000)
    with pytest.raises(HostError, match="does not start as a QEMU"):
        probe_qemu(str(fake_qemu(extra="exec yes")))


@pytest.mark.parametrize(("mode", "reason"), [(0o755, "Exec format error"), (0o644, "Permission denied")])
def test_a_file_that_is_no_program_says_why(tmp_path: Path, mode: int, reason: str) -> None:
    path = tmp_path / "qemu"
    path.write_bytes(b"\x7fELF and no more")
    path.chmod(mode)
    with pytest.raises(HostError, match=f"can't be run: {reason}"):
        probe_qemu(str(path))


def test_a_binary_that_is_gone_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(QemuNotFound, match="there is no QEMU at"):
        probe_qemu(str(tmp_path / "qemu"))


def test_another_architecture_is_refused(fake_qemu: FakeQemu) -> None:
    path = fake_qemu(transcript(target={"return": {"arch": "aarch64"}}))
    with pytest.raises(HostError, match="emulates 'aarch64'"):
        qemu_facts(str(path), cache=None, env=ENV)


# --- the cache


def test_a_binary_is_run_once(fake_qemu: FakeQemu, tmp_path: Path) -> None:
    path, cache = str(fake_qemu()), str(tmp_path / "cache")
    first = qemu_facts(path, cache=cache, env=ENV)
    assert qemu_facts(path, cache=cache, env=ENV) == first
    assert runs(tmp_path) == 1
    assert replace(first, firmwares=()) == facts_from_replies(RECORDING, path=path)


def test_a_replaced_binary_is_probed_again(fake_qemu: FakeQemu, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    qemu_facts(str(fake_qemu()), cache=cache, env=ENV)
    newer = {"return": {"qemu": {"major": 8, "minor": 0, "micro": 0}, "package": ""}}
    (tmp_path / "qemu-system-x86_64").unlink()
    path = fake_qemu(transcript(version=newer), extra="# rebuilt")
    assert qemu_facts(str(path), cache=cache, env=ENV).version == (8, 0, 0)


def test_a_program_replaced_behind_a_wrapper_is_probed_again(fake_qemu: FakeQemu, tmp_path: Path) -> None:
    inner = fake_qemu(name="inner")
    outer = tmp_path / "outer"
    outer.write_text(f'#!/bin/sh\nexec {inner} "$@"\n')
    outer.chmod(0o755)
    cache = str(tmp_path / "cache")
    qemu_facts(str(outer), cache=cache, env=ENV)
    qemu_facts(str(outer), cache=cache, env=ENV)
    assert runs(tmp_path) == 1
    fake_qemu(name="inner", extra="# another")
    qemu_facts(str(outer), cache=cache, env=ENV)
    assert runs(tmp_path) == 2


def test_a_wrapper_that_names_no_program_is_never_remembered(fake_qemu: FakeQemu, tmp_path: Path) -> None:
    fake_qemu(name="inner")
    outer = tmp_path / "outer"
    outer.write_text('#!/bin/sh\ncd "$(dirname "$0")"; exec ./inner "$@"\n')
    outer.chmod(0o755)
    cache = tmp_path / "cache"
    qemu_facts(str(outer), cache=str(cache), env=ENV)
    qemu_facts(str(outer), cache=str(cache), env=ENV)
    assert runs(tmp_path) == 2
    assert not cache.exists()


def test_a_new_module_makes_the_binary_another(fake_qemu: FakeQemu, tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    env = ENV | {"QEMU_MODULE_DIR": str(modules)}
    path, cache = str(fake_qemu()), str(tmp_path / "cache")
    qemu_facts(path, cache=cache, env=env)
    (modules / "hw-display-qxl.so").touch()
    qemu_facts(path, cache=cache, env=env)
    assert runs(tmp_path) == 2


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"identity": 1}', b"\xff\xfe"])
def test_a_damaged_cache_is_no_cache(fake_qemu: FakeQemu, tmp_path: Path, damage: bytes) -> None:
    path, cache = str(fake_qemu()), tmp_path / "cache"
    facts = qemu_facts(path, cache=str(cache), env=ENV)
    for file in cache.iterdir():
        file.write_bytes(damage)
    assert qemu_facts(path, cache=str(cache), env=ENV) == facts
    assert runs(tmp_path) == 2


def test_facts_of_other_rules_are_derived_anew_without_running_qemu(fake_qemu: FakeQemu, tmp_path: Path) -> None:
    path, cache = str(fake_qemu()), tmp_path / "cache"
    facts = qemu_facts(path, cache=str(cache), env=ENV)
    [file] = cache.glob("*.facts.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rules": ["another"]}))
    assert qemu_facts(path, cache=str(cache), env=ENV) == facts
    assert runs(tmp_path) == 1


@pytest.mark.parametrize("umask", [0, 0o027, 0o777])
def test_the_cache_is_private_under_any_umask(fake_qemu: FakeQemu, tmp_path: Path, umask: int) -> None:
    path, top = str(fake_qemu()), tmp_path / "cache"
    before = os.umask(umask)
    try:
        qemu_facts(path, cache=str(top / "kvmctl" / "qemu"), env=ENV)
    finally:
        os.umask(before)
    modes = {item.name.split(".", 1)[-1]: stat.S_IMODE(item.stat().st_mode) for item in (top, *top.rglob("*"))}
    assert modes == {"cache": 0o700, "kvmctl": 0o700, "qemu": 0o700, "facts.json": 0o600, "replies.json": 0o600}


def test_a_cache_that_cannot_be_written_is_done_without(fake_qemu: FakeQemu, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    assert qemu_facts(str(fake_qemu()), cache=str(tmp_path / "cache" / "qemu"), env=ENV).version == (7, 2, 22)


def test_nothing_is_written_when_nothing_shall_be(fake_qemu: FakeQemu, tmp_path: Path) -> None:
    qemu_facts(str(fake_qemu()), cache=str(tmp_path / "cache"), env=ENV, remember=False)
    assert not (tmp_path / "cache").exists()


# --- the real one


@pytest.mark.qemu
def test_the_real_qemu_answers_every_question(tmp_path: Path) -> None:
    path = find_qemu(env=os.environ)
    assert set(probe_qemu(path)) == set(QUERIES)
    facts = qemu_facts(path, cache=str(tmp_path), env=os.environ)
    assert {"virtio-blk-pci", "virtio-net-pci", "virtio-balloon-pci"} <= facts.devices
    assert {"q35", "pc", "microvm"} <= {name for item in facts.machines for name in (item.alias, item.name)}
    assert "tcg" in facts.accelerators
    assert Feature.SANDBOX in facts.features


@pytest.mark.qemu
def test_the_real_qemu_is_as_recorded() -> None:
    replies = probe_qemu(find_qemu(env=os.environ))
    facts = facts_from_replies(replies, path="qemu")
    recording = Path(__file__).parent.parent / f"data/qemu/{facts.version[0]}.{facts.version[1]}.json"
    if not recording.exists():
        pytest.skip(f"QEMU {facts.version_text} is not recorded: scripts/capture-qemu")
    recorded = facts_from_replies(json.loads(recording.read_text())["replies"], path="qemu")
    assert facts.features == recorded.features
    assert {machine.name for machine in facts.machines} == {machine.name for machine in recorded.machines}
