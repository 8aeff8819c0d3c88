"""What goes wrong while a machine is started: said clearly, and nothing left."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import kvmctl
from kvmctl import Roots
from kvmctl.runtime.begin import begin

from .conftest import tiny
from .scripts import (
    AS_NOBODY,
    ONE_START,
    START_OF_SEVERAL,
    run_script,
    start_script,
)
from .start_scripts import START_FAILING_AT_EVERY_STEP, START_KILLED_AT_EVERY_STEP

pytestmark = [pytest.mark.qemu]


@pytest.fixture(autouse=True)
def nothing_left(roots: Roots) -> Iterator[None]:
    """Whatever was tried, no run directory may be left of it."""
    yield
    if os.path.exists(roots.runtime):
        assert os.listdir(roots.runtime) == []


def disk(path: Path, **more: object) -> dict[str, object]:
    return {"path": str(path), "format": "raw", **more}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return path


async def test_a_missing_image_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(kvmctl.NotFound, match=r"disks\[0\].*'.*/gone.img' does not exist") as caught:
        await kvmctl.start(tiny(disks=[disk(tmp_path / "gone.img")]))
    assert caught.value.hint == "Give the path of a file that exists, or a size for a disk to be made."


@pytest.mark.parametrize("is_link", [True, False])
async def test_a_missing_kernel_is_no_disk_to_be_made(tmp_path: Path, *, is_link: bool) -> None:
    kernel = tmp_path / "vmlinuz"
    if is_link:
        kernel.symlink_to(tmp_path / "gone")
    with pytest.raises(kvmctl.NotFound, match=r"boot\.kernel: '.*/vmlinuz' does not exist") as caught:
        await kvmctl.start(tiny(boot={"kernel": str(kernel)}))
    assert "a disk" not in caught.value.hint
    assert ("link" in caught.value.hint) is is_link


async def test_all_that_is_in_the_way_is_told_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        network = {"type": "user", "forward": [f"127.0.0.1:{port}->22"]}
        machine = tiny(boot={"kernel": str(tmp_path / "vmlinuz")}, disks=[disk(tmp_path / "a.img")], networks=[network])
        with pytest.raises(kvmctl.NotFound) as caught:
            await kvmctl.start(machine)
    told = [caught.value.summary, *caught.value.detail.splitlines()]
    assert len(told) == 3
    for words in ("boot.kernel: ", "disks[0].path: ", f"networks[0].forward[0]: cannot listen on 127.0.0.1:{port}"):
        assert any(words in line for line in told), told


async def test_a_missing_image_with_a_size_is_made_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "new, of=size.img"
    async with kvmctl.launch(tiny(disks=[disk(path, size="1MiB")])) as vm:
        await vm.wait_for_console("^READY")
    assert path.stat().st_size == 1 << 20
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_an_image_made_for_a_start_that_failed_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "made/too/new.img"
    machine = tiny(disks=[disk(path, size="1MiB")], extra_args=["-device", "no-such-device"])
    with pytest.raises(kvmctl.LaunchFailed):
        await kvmctl.start(machine)
    assert not (tmp_path / "made").exists()


async def test_an_image_in_use_is_named_with_its_user(image: Path) -> None:
    async with kvmctl.launch(tiny("first", disks=[disk(image)]), name="first") as vm:
        with pytest.raises(kvmctl.ImageBusy, match=rf"in use by process {vm.pid} \(machine 'first'\)") as caught:
            await kvmctl.start(tiny("second", disks=[disk(image)]))
        assert caught.value.holder == vm.pid


async def test_an_image_in_use_by_a_qemu_that_is_not_kvmctls_is_named_with_its_process(image: Path) -> None:
    command = ["qemu-system-x86_64", "-M", "pc", "-accel", "tcg", "-S", "-nodefaults", "-display", "none"]
    command += ["-drive", f"file={image},format=raw,if=virtio", "-qmp", "stdio"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as foreign:
        try:
            assert foreign.stdin is not None
            assert foreign.stdout is not None
            foreign.stdin.write(b'{"execute": "qmp_capabilities"}')
            foreign.stdin.flush()
            assert b"QMP" in foreign.stdout.readline()
            assert b"return" in foreign.stdout.readline()  # it has its disk by the time it answers
            with pytest.raises(kvmctl.ImageBusy, match=rf"in use by process {foreign.pid} \(qemu-system-x86") as caught:
                await kvmctl.start(tiny(disks=[disk(image)]))
            assert caught.value.holder == foreign.pid
        finally:
            foreign.kill()


async def test_an_image_may_be_read_by_many(image: Path) -> None:
    shared = [disk(image, read_only=True)]
    async with kvmctl.launch(tiny(disks=shared)), kvmctl.launch(tiny(disks=shared)):
        pass


async def test_an_image_of_another_format_is_said_to_be(image: Path) -> None:
    with pytest.raises(kvmctl.ImageError, match="not in the format given"):
        await kvmctl.start(tiny(disks=[{"path": str(image), "format": "qcow2"}]))


async def test_a_taken_vnc_port_is_named_with_its_listener(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        vnc = {"address": "127.0.0.1", "port": port, "password_file": str(password)}
        with pytest.raises(kvmctl.PortBusy, match=rf"127.0.0.1:{port}.*process {os.getpid()}"):
            await kvmctl.start(tiny(vnc=vnc))


async def test_a_missing_qemu_is_said_with_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(kvmctl.QemuNotFound) as caught:
        await kvmctl.start(tiny(qemu=str(tmp_path / "qemu")))
    assert "apt install" in caught.value.hint


async def test_a_qemu_that_vanishes_after_it_was_looked_at_is_said_to_be_gone(tmp_path: Path) -> None:
    qemu = wrapper(tmp_path, 'exec qemu-system-x86_64 "$@"')
    prepared = kvmctl.prepare(tiny(qemu=str(qemu)))
    qemu.unlink()
    with pytest.raises(kvmctl.QemuNotFound, match="there is no QEMU at"):
        begin(prepared.plan, prepared.paths, is_captive=False)


async def test_a_qemu_that_dies_at_its_start_is_quoted() -> None:
    with pytest.raises(kvmctl.LaunchFailed, match="exited with status 1 while starting 'web'") as caught:
        await kvmctl.start(tiny(extra_args=["-device", "no-such-device"]))
    assert "'no-such-device' is not a valid device model name" in caught.value.detail


async def test_a_qemu_that_is_killed_at_its_start_is_said_to_be(tmp_path: Path) -> None:
    qemu = wrapper(tmp_path, 'case "$*" in *isa-serial*) kill -9 $$;; esac; exec qemu-system-x86_64 "$@"')
    with pytest.raises(kvmctl.LaunchFailed, match="was killed by signal 9 while starting 'web'"):
        await kvmctl.start(tiny(qemu=str(qemu)))


async def test_a_qemu_that_is_too_old_is_refused_by_version_and_path(tmp_path: Path) -> None:
    version = '{"qemu": {"major": 6, "minor": 2, "micro": 0}, "package": ""}'
    qemu = wrapper(tmp_path, f"""echo '{{"QMP": {{"version": {version}, "capabilities": []}}}}'""")
    with pytest.raises(kvmctl.QemuTooOld, match=r"6\.2"):
        await kvmctl.start(tiny(qemu=str(qemu)))


def wrapper(directory: Path, body: str) -> Path:
    """A shell script that stands in for QEMU."""
    path = directory / "qemu-system-x86_64"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o700)
    return path


async def test_paths_too_long_for_a_socket_are_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roots: Roots
) -> None:
    long = tmp_path / ("x" * 200)
    monkeypatch.setenv("KVMCTL_RUNTIME_DIR", str(long))
    async with kvmctl.launch(tiny(), name="m" * 60) as vm:
        await vm.wait_for_agent()
        assert (await vm.status()).state is kvmctl.State.RUNNING
        async with kvmctl.attach(vm.name) as other:
            assert (await other.status()).state is kvmctl.State.RUNNING
    assert os.listdir(long) == []


async def test_a_path_too_long_for_a_socket_that_qemu_makes_is_refused_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVMCTL_RUNTIME_DIR", str(tmp_path / ("x" * 200)))
    with pytest.raises(kvmctl.SpecError, match="107"):
        await kvmctl.start(tiny(vnc={}))


def test_two_starts_at_once_have_one_winner() -> None:
    starts = [start_script(ONE_START) for _ in range(2)]
    said = [start.communicate()[0] for start in starts]
    winners = [text for text in said if text.strip().isdigit()]
    losers = [text for text in said if text.startswith("AlreadyRunning machine 'web' is")]
    assert (len(winners), len(losers)) == (1, 1), said
    kvmctl.force_stop("web")
    kvmctl.remove("web")


def test_twenty_machines_started_by_four_processes_all_run() -> None:
    names = [f"m{index}" for index in range(20)]
    starts = [start_script(START_OF_SEVERAL, *names[index::4]) for index in range(4)]
    for start in starts:
        said, _ = start.communicate()
        assert start.returncode == 0, said
    running = kvmctl.list_machines()
    assert sorted(machine.name for machine in running) == sorted(names)
    assert {machine.state for machine in running} == {kvmctl.State.RUNNING}
    assert len({machine.pid for machine in running}) == 20
    for name in names:
        kvmctl.force_stop(name)
        kvmctl.remove(name)


WAYS = ["", "made", "quick again", "quick made"]
"""How machines are started, in the words of `start_scripts`."""


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_launcher_killed_at_any_step_leaves_all_as_it_was(roots: Roots, way: str) -> None:
    said = run_script(START_KILLED_AT_EVERY_STEP, *way.split(), seconds=240)
    assert int(said.split()[1]) > 50  # so many things a start asks of the system, or the hook missed them


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["interrupt", "error"])
@pytest.mark.parametrize("way", ["", "quick again", "quick made"])
def test_a_start_that_fails_at_any_step_leaves_all_as_it_was(roots: Roots, way: str, fault: str) -> None:
    said = run_script(START_FAILING_AT_EVERY_STEP, fault, *way.split(), seconds=240)
    assert int(said.split()[1]) > 25  # so many things a start asks of the system, or the hook missed them


@pytest.fixture
def as_nobody() -> Iterator[dict[str, str]]:
    """The environment of a user without privileges, whose directories are his own."""
    with tempfile.TemporaryDirectory() as directory:
        own = Path(directory)
        own.chmod(0o755)
        parts = {}
        for part in ("CONFIG", "STATE", "RUNTIME", "CACHE"):
            path = own / part.lower()
            path.mkdir(mode=0o700)
            with suppress(PermissionError):
                os.chown(path, 65534, 65534)
            parts[f"KVMCTL_{part}_DIR"] = str(path)
        own_qemu = {"KVMCTL_QEMU"}  # it may lie where nobody can read it
        yield {**{key: value for key, value in os.environ.items() if key not in own_qemu}, **parts, "HOME": directory}


def try_as_nobody(machine: str, env: dict[str, str]) -> str:
    script = f"""{AS_NOBODY}
try:
    print("started", asyncio.run(start({machine})))
except kvmctl.KvmctlError as error:
    print(type(error).__name__, error)
"""
    return run_script(script, env=env)


def test_kvm_without_permission_is_refused_with_the_way_to_get_it(as_nobody: dict[str, str]) -> None:
    if not os.path.exists("/dev/kvm") or os.stat("/dev/kvm").st_mode & stat.S_IRWXO:
        pytest.skip("this host has no /dev/kvm, or one for everybody")
    said = try_as_nobody('tiny(accel="kvm")', as_nobody)
    assert said.startswith("KvmUnavailable")
    assert "/dev/kvm" in said
    assert "verdict: no-kvm: " in said


@pytest.mark.parametrize("made", ["start(machine)", 'kvmctl.create_template("small", machine)'])
def test_kvm_that_does_not_work_is_the_verdict_on_whatever_was_to_run_with_it(made: str) -> None:
    script = f"""
machine = tiny(accel="kvm")
try:
    asyncio.run({made})
except kvmctl.KvmUnavailable as error:
    print(error.verdict.kind, error.verdict.summary, *error.verdict.evidence, kvmctl.list_machines())
"""
    broken = 'mount --bind /dev/null /dev/kvm && exec "$@"'
    if not os.path.exists("/dev/kvm"):
        broken = 'exec "$@"'
    said = run_script(script, wrap=("unshare", "-rm", "sh", "-c", broken, "sh"))
    assert said.startswith("no-kvm ")
    assert "asks for KVM" in said
    assert said.rstrip().endswith("[]")


def test_an_unreadable_image_is_named_with_its_owner(as_nobody: dict[str, str]) -> None:
    image = Path(as_nobody["HOME"]) / "theirs.img"
    image.write_bytes(bytes(1 << 20))
    image.chmod(0o000 if os.getuid() else 0o600)
    said = try_as_nobody(f'tiny(disks=[{{"path": {str(image)!r}, "format": "raw"}}])', as_nobody)
    assert said.startswith("ImageError disks[0]")
    assert "no permission to read and write" in said
    assert f"owner {os.getuid()}" in said
