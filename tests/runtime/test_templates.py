"""Templates and their forks, on a real QEMU with the tiny guest: what they share, and what they don't."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from interruption import Interruption

import kvmctl
from kvmctl import Fork, Roots, State
from kvmctl.guest.tiny import IMAGE, Key
from kvmctl.runtime import forking
from kvmctl.runtime.digests import digest

from .conftest import frozen_tiny, give_card, tiny

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("roots")]

KEY = "AAAAC3NzaC1lZDI1NTE5AAAAI"
"""Begins every public key of Ed25519; 43 letters follow."""


async def answer(fork: Fork, key: Key | str, expected: str) -> str:
    """The line that the guest prints on a key: it runs, where it was frozen."""
    with kvmctl.open_console(fork.name) as console:
        console.send(key.encode())
    return await fork.wait_for_console(expected)


async def test_a_fork_goes_on_where_its_template_was_frozen() -> None:
    template = await frozen_tiny()
    async with await template.fork() as fork:
        await answer(fork, "z", "<z>")
        assert "READY" not in fork.console_text()  # it did not boot
        assert (await fork.status()).state is State.RUNNING
        assert fork.plan.template == "small"
        assert 0 < fork.profile.spawned < fork.profile.greeted < fork.profile.running


async def test_one_that_never_gets_there_is_given_up_with_a_verdict_and_leaves_nothing(roots: Roots) -> None:
    with pytest.raises(
        kvmctl.DeadlineExceeded, match=r"gave up after 0\.5 s: bring it to where it is frozen"
    ) as caught:
        await kvmctl.create_template("small", "tiny", until="console:never", patience=0.5)
    assert caught.value.verdict is not None
    assert kvmctl.list_templates() == []
    assert kvmctl.list_machines(include_stopped=True) == []
    assert not [name for _, _, names in os.walk(roots.templates) for name in names if name != "lock"]


async def test_forks_are_different_machines_and_leave_nothing(roots: Roots) -> None:
    template = await frozen_tiny()
    async with await template.fork() as one, await template.fork(name="two") as two:
        assert two.name == "two" != one.name
        for command, key in (("query-uuid", "UUID"), ("query-name", "name")):
            assert (await one.qmp(command))[key] != (await two.qmp(command))[key]
        assert (await one.qmp("query-uuid"))["UUID"] == one.plan.uuid
    assert os.listdir(roots.runtime) == []
    assert not os.path.exists(roots.ephemeral) or os.listdir(roots.ephemeral) == []


async def test_guests_that_have_a_driver_for_it_are_told_that_they_were_copied() -> None:
    template = await frozen_tiny(tiny(firmware="bios"))
    async with await template.fork() as one, await template.fork() as two:
        seen = {(await fork.qmp("query-vm-generation-id"))["guid"] for fork in (one, two)}
    assert len(seen) == 2


async def test_a_fork_can_be_rebooted() -> None:
    template = await frozen_tiny()
    async with await template.fork() as fork:
        await answer(fork, Key.RESET, "^READY")


async def test_a_card_that_qemu_refuses_ends_the_fork_and_leaves_nothing(roots: Roots) -> None:
    template = await frozen_tiny()
    give_card(template, driver="abacus")
    with pytest.raises(kvmctl.LaunchFailed, match=r"networks\[1\]: QEMU can't plug 'own' into 'one': .*'abacus'"):
        await template.fork(name="one")
    with pytest.raises(kvmctl.LaunchFailed):
        await template.fork_detached(["one", "two"])
    assert os.listdir(roots.runtime) == []
    assert not kvmctl.list_templates()[0].in_use


async def test_a_forked_machine_is_like_others_to_who_finds_it() -> None:
    template = await frozen_tiny()
    await template.fork_detached(["one", "two"])
    assert [machine.state for machine in kvmctl.list_machines()] == [State.RUNNING] * 2
    for name in ("one", "two"):
        async with kvmctl.attach(name) as vm:
            assert vm.plan.template == "small"
            await vm.kill()
        kvmctl.remove(name)
    assert kvmctl.list_machines(include_stopped=True) == []


async def test_a_fork_takes_no_name_that_is_taken(roots: Roots) -> None:
    template = await frozen_tiny()
    os.makedirs(roots.machine("mine").state)
    for names in (["mine"], ["free", "mine"]):
        with pytest.raises(kvmctl.AlreadyRunning, match="'mine'"):
            await template.fork_detached(names)
    assert kvmctl.list_machines() == []
    async with await template.fork(name="one"):
        with pytest.raises(kvmctl.AlreadyRunning, match="'one'"):
            await template.fork(name="one")


# -- the same, and something else ------------------------------------------------------------------------------------


async def test_made_again_of_the_same_it_is_left_as_it_is() -> None:
    first, again = await frozen_tiny(), await frozen_tiny()
    assert (first.is_new, again.is_new) == (True, False)
    assert again.record == first.record


async def test_of_something_else_it_is_refused_with_what_differs_and_made_anew_on_request() -> None:
    first = await frozen_tiny()
    with pytest.raises(kvmctl.TemplateMisfit) as caught:
        await frozen_tiny(tiny("other", cpus=2, cmdline="deaf"))
    assert [line.strip() for line in caught.value.detail.splitlines()] == ["boot is another one", "cpus is another one"]
    await frozen_tiny(tiny(cpus=2), refresh=True)
    async with await first.fork() as fork:  # who held the old one forks the new one
        assert fork.plan.cpus == 2


async def test_one_that_has_forks_is_not_made_anew_and_nothing_is_booted_for_it() -> None:
    template = await frozen_tiny()
    async with await template.fork() as fork:
        with pytest.raises(kvmctl.Busy, match="template 'small' is in use"):
            await kvmctl.create_template("small", tiny(), until="console:never", refresh=True, patience=60)
        await answer(fork, "z", "<z>")
    template.check()


async def test_an_image_that_has_changed_makes_it_another_template(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel.bin"
    shutil.copy(IMAGE, kernel)
    machine = tiny(boot={"kernel": str(kernel)})
    template = await frozen_tiny(machine)
    os.utime(kernel)  # touched, but the same
    async with await template.fork():
        pass
    kernel.write_bytes(kernel.read_bytes() + b"\0")
    with pytest.raises(kvmctl.TemplateMisfit, match=r"boot\.kernel.*is not what it was"):
        await template.fork()
    with pytest.raises(kvmctl.TemplateMisfit, match="made of something else") as caught:
        await frozen_tiny(machine)
    assert str(kernel) in caught.value.detail


@pytest.mark.parametrize(
    ("key", "guest", "said"),
    [
        ("guest.files[0].source", {"files": [{"path": "/etc/motd", "source": "said"}]}, ["hello", "good-bye"]),
        ("guest.ssh_keys[0]", {"ssh_keys": ["./said"]}, [f"ssh-ed25519 {KEY}{letter * 43} me" for letter in "ab"]),
        (
            "guest.users[0].password_hash.file",
            {"users": [{"name": "bob", "password_hash": {"file": "said"}}]},
            ["$6$salt$somehash", "$6$salt$anotherhash"],
        ),
        ("guest.user_data", {"user_data": "said"}, ["#cloud-config\nlocale: C\n", "#cloud-config\nlocale: POSIX\n"]),
    ],
)
async def test_what_a_guest_is_told_otherwise_makes_it_another_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, guest: dict[str, Any], said: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    machine = tiny(guest={"via": "nocloud", **guest})
    (tmp_path / "said").write_text(said[0])
    assert (await frozen_tiny(machine)).is_new
    os.utime(tmp_path / "said")
    assert not (await frozen_tiny(machine)).is_new
    (tmp_path / "said").write_text(said[1])
    with pytest.raises(kvmctl.TemplateMisfit, match="made of something else") as caught:
        await frozen_tiny(machine)
    assert caught.value.detail == f"  what {key} says is another one"
    assert (await frozen_tiny(machine, refresh=True)).is_new


async def test_a_secret_is_needed_once_for_a_template(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = tiny(guest={"via": "nocloud", "users": [{"name": "bob", "password_hash": {"env": "BOBS_HASH"}}]})
    monkeypatch.setenv("BOBS_HASH", "$6$salt$somehash")
    await frozen_tiny(machine)
    monkeypatch.delenv("BOBS_HASH")
    assert not (await frozen_tiny(machine)).is_new
    monkeypatch.setenv("BOBS_HASH", "$6$salt$anotherhash")
    with pytest.raises(kvmctl.TemplateMisfit, match="made of something else"):
        await frozen_tiny(machine)


# -- disks -----------------------------------------------------------------------------------------------------------


async def test_forks_write_disks_of_their_own_and_nobody_else_s(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    shutil.copy(IMAGE, image)
    os.truncate(image, 1 << 20)
    machine = tiny(firmware="bios", boot={}, disks=[{"path": str(image), "format": "raw"}])
    before = digest(str(image))
    template = await frozen_tiny(machine)
    async with await template.fork() as one, await template.fork() as two:
        for count in (2, 3):
            await answer(one, Key.COUNT, f"boots={count}")
        await answer(two, Key.COUNT, "boots=2")
        await answer(two, Key.RESET, "READY")
        await two.wait_for_console("boot=D .*boots=3")  # what it wrote is there when it boots
    template.check()
    assert digest(str(image)) == before


async def test_disks_made_for_the_machine_are_frozen_with_it(roots: Roots) -> None:
    disks = [{"size": "8MiB"}, {"size": "1MiB", "format": "raw"}]
    template = await frozen_tiny(tiny(firmware="bios", disks=disks))
    paths = roots.template("small")
    assert {"disks/disk0.qcow2", "disks/disk1.raw", "blanks/disk0.qcow2", "blanks/disk1.qcow2"} < set(
        template.record.files
    )
    async with await template.fork() as fork:
        nodes = {item["node-name"]: item for item in await fork.qmp("query-named-block-nodes")}
        for name, made in (("disk0", "disk0.qcow2"), ("disk1", "disk1.raw")):
            assert nodes[name]["file"].startswith(fork.paths.disks)
            assert not nodes[name]["ro"]
            assert nodes[f"{name}-frozen-file"]["file"] == f"{paths.directory}/disks/{made}"
            assert nodes[f"{name}-frozen-file"]["ro"]


async def test_its_files_are_read_only_but_for_memory_that_qemu_opens_for_writing() -> None:
    template = await frozen_tiny(tiny(disks=[{"size": "1MiB"}]))
    (memory,) = [option.body for option in template.record.plan.options if option.body.get("id") == "ram"]
    modes = {
        name: os.stat(os.path.join(template.paths.directory, name)).st_mode & 0o777 for name in template.record.files
    }
    assert modes.pop("memory") == (0o400 if memory.get("readonly") else 0o600)
    assert {"device-state", "disks/disk0.qcow2", "blanks/disk0.qcow2"} <= set(modes)
    assert set(modes.values()) == {0o400}


# -- pools -----------------------------------------------------------------------------------------------------------


async def test_a_pool_hands_out_forks_of_its_own_and_leaves_nothing(roots: Roots) -> None:
    template = await frozen_tiny()
    async with kvmctl.Pool(template, size=2) as pool:
        seen = set()
        for _ in range(3):
            async with pool.lease() as fork:
                await answer(fork, "z", "<z>")
                seen.add(fork.name)
            assert not fork.is_alive
        assert len(seen) == 3
    assert os.listdir(roots.runtime) == []


async def test_a_pool_passes_over_what_died_and_tells_what_can_not_be_had() -> None:
    template = await frozen_tiny()
    async with kvmctl.Pool(template, size=1) as pool:
        async with pool.lease() as fork:
            first = fork.name
        await (await _ready(pool)).kill()
        async with pool.lease() as fork:
            assert fork.name != first
        await _ready(pool)
        os.chmod(template.paths.device_state, 0o600)
        os.truncate(template.paths.device_state, 0)
        async with pool.lease():
            pass  # it was made before
        with pytest.raises(kvmctl.TemplateDamaged):
            await pool.lease().__aenter__()


async def test_a_pool_without_room_is_refused_before_the_first_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    template = await frozen_tiny(tiny(disks=[{"size": "1MiB"}]))
    for said in (r"forks take at least \d+ MiB of memory", "has not that much left"):
        with pytest.raises((kvmctl.HostError, kvmctl.StateError), match=said):
            await kvmctl.Pool(template, size=2_000_000).__aenter__()
        monkeypatch.setattr(forking, "MEMORY", 0)
    assert kvmctl.list_machines(include_stopped=True) == []


async def test_what_goes_wrong_beside_a_pool_is_not_wrapped() -> None:
    template = await frozen_tiny()
    with pytest.raises(ZeroDivisionError):
        async with kvmctl.Pool(template, size=1) as pool, pool.lease():
            raise ZeroDivisionError


async def _ready(pool: kvmctl.Pool) -> Fork:
    """The fork that is ready, which nobody has leased yet."""
    waiting = await pool._ready.get()  # nobody else needs to know
    pool._ready.put_nowait(waiting)
    assert isinstance(waiting, Fork)
    return waiting


# -- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_detached", [False, True])
async def test_cancelled_at_any_step_a_fork_leaves_nothing(roots: Roots, is_detached: bool) -> None:
    template = await frozen_tiny()

    async def work() -> None:
        if is_detached:
            await template.fork_detached(["one", "two"])
        else:
            async with await template.fork():
                pass

    step = 1
    while True:
        interruption = Interruption(step)
        await interruption.run(work)
        if interruption.steps < step:
            break
        assert os.listdir(roots.runtime) == []
        step += 5
    for name in kvmctl.machine_names():
        kvmctl.kill(name)


@pytest.mark.parametrize("name", ["memory", "device-state", "lock"])
async def test_a_missing_file_is_told(roots: Roots, name: str) -> None:
    template = await frozen_tiny()
    os.unlink(os.path.join(template.paths.directory, name))
    if name == "lock":
        (info,) = kvmctl.list_templates()
        with pytest.raises(kvmctl.KvmctlError):
            await template.fork()
        kvmctl.remove_template("small")
        assert kvmctl.list_templates() == []
        return
    with pytest.raises(kvmctl.TemplateDamaged, match=f"{name}' is missing"):
        await template.fork()
    (info,) = kvmctl.list_templates()
    assert "is missing" in info.problem
    with pytest.raises(kvmctl.TemplateDamaged):
        await frozen_tiny()
    assert [info.name for info in kvmctl.collect_templates()] == ["small"]
    assert os.listdir(roots.templates) == []


@pytest.mark.parametrize("fault", ["truncated", "altered"])
@pytest.mark.parametrize("name", ["memory", "device-state", "disks/disk0.qcow2", "blanks/disk0.qcow2"])
async def test_a_file_that_is_not_what_it_was_is_told(name: str, fault: str) -> None:
    template = await frozen_tiny(tiny(disks=[{"size": "1MiB"}]))
    path = Path(template.paths.directory, name)
    path.chmod(0o600)
    with path.open("r+b") as file:
        if fault == "truncated":
            file.truncate(path.stat().st_size // 2)
        else:
            file.seek(path.stat().st_size // 2)
            file.write(b"\xa5")
    with pytest.raises(kvmctl.TemplateDamaged, match=f"{name}' is not what it was"):
        await template.fork()
    assert kvmctl.list_machines() == []


async def test_a_file_that_was_only_touched_is_as_good_as_before() -> None:
    template = await frozen_tiny()
    os.utime(template.paths.memory)
    async with await template.fork():
        pass


async def test_a_record_that_cannot_be_read_is_told() -> None:
    template = await frozen_tiny()
    for text in ("", "{}", '{"format": 99}'):
        Path(template.paths.record).write_text(text)
        with pytest.raises(kvmctl.TemplateDamaged):
            kvmctl.load_template("small")
        (info,) = kvmctl.list_templates()
        assert info.problem


async def test_another_qemu_than_the_one_that_made_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "qemu-system-x86_64"
    real = os.path.realpath(kvmctl.prepare(tiny()).plan.qemu)
    mine.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    mine.chmod(0o755)
    monkeypatch.setenv("KVMCTL_QEMU", str(mine))
    template = await frozen_tiny()
    mine.write_text(f'#!/bin/sh\n# upgraded\nexec {real} "$@"\n')
    with pytest.raises(kvmctl.TemplateMisfit, match="another QEMU than the"):
        await template.fork()
    with pytest.raises(kvmctl.TemplateMisfit, match="made of something else"):
        await frozen_tiny()
    assert (await frozen_tiny(refresh=True)).is_new
    mine.unlink()
    with pytest.raises(kvmctl.TemplateMisfit, match="is gone"):
        await template.fork()


async def test_too_many_forks_are_refused_before_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    template = await frozen_tiny(tiny(disks=[{"size": "1MiB"}]))
    with pytest.raises(kvmctl.HostError, match=r"forks take at least \d+ MiB of memory"):
        await template.fork_detached([f"f{number}" for number in range(1_000_000)])
    monkeypatch.setattr(forking, "MEMORY", 0)
    with pytest.raises(kvmctl.StateError, match="has not that much left"):
        await template.fork_detached([f"f{number}" for number in range(2_000_000)])
    assert kvmctl.list_machines(include_stopped=True) == []
