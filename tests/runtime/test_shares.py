"""Shared directories of real machines: what the guest sees, and what goes wrong with them."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import kvmctl
from kvmctl import Roots
from kvmctl.host.virtiofsd import probe_virtiofsd
from kvmctl.ioctl import confine
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.helper_locks import find_helper, inspect_helpers
from kvmctl.runtime.start import start_plan

from .conftest import tiny
from .guests import build, linux, said
from .scripts import AS_NOBODY, run_script

pytestmark = [pytest.mark.qemu]

needs_virtiofsd = pytest.mark.skipif(
    not probe_virtiofsd(env=os.environ, cache=None).works, reason="this host has no virtiofsd that works"
)


@pytest.fixture(scope="module")
def guest() -> tuple[str, str]:
    return build()


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    directory = tmp_path / "shared, and=odd"
    directory.mkdir()
    (directory / "file").write_text("from the host")
    return directory


def share(directory: Path, **more: Any) -> dict[str, Any]:
    return {"path": str(directory), "mount": "/mnt/share", **more}


def fake_virtiofsd(directory: Path, body: str) -> str:
    """A script that helps like a virtiofsd, and otherwise does `body`."""
    path = directory / "virtiofsd"
    helps = 'case "$1" in --help) echo "--shared-dir --fd"; exit;; esac'
    path.write_text(f"#!/bin/sh\n# /bin/sh\n{helps}\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.linux
@needs_virtiofsd
async def test_a_share_is_mounted_where_the_spec_says(guest: tuple[str, str], shared: Path, roots: Roots) -> None:
    place = "/mnt/two words"
    async with kvmctl.launch(linux(guest, shares=[share(shared, mount=place)])) as vm:
        await vm.wait_for_agent()
        assert await said(vm, f"cat '{place}/file'") == "from the host"
        await said(vm, f"umask 022; echo from the guest >'{place}/new'; mkdir '{place}/folder'")
        assert (shared / "new").read_text() == "from the guest\n"
        assert (shared / "new").stat().st_uid == os.getuid()
        assert (shared / "folder").stat().st_mode & 0o777 == 0o755
        (shared / "later").write_text("seen at once")
        assert await said(vm, f"cat '{place}/later'") == "seen at once"


@pytest.mark.linux
@pytest.mark.slow
async def test_files_made_by_way_of_9p_have_the_modes_they_were_made_with(shared: Path, roots: Roots) -> None:
    async with kvmctl.launch(linux(build("generic-linux"), shares=[share(shared, driver="9p")])) as vm:
        await vm.wait_for_agent()
        assert await said(vm, "umask 022; cd /mnt/share; cat file; echo x >new; mkdir folder") == "from the host"
    assert (shared / "new").stat().st_mode & 0o777 == 0o644
    assert (shared / "folder").stat().st_mode & 0o777 == 0o755


@pytest.mark.linux
@needs_virtiofsd
async def test_a_guest_outlives_its_virtiofsd_and_show_says_what_is_lost(
    guest: tuple[str, str], shared: Path, roots: Roots
) -> None:
    async with kvmctl.launch(linux(guest, shares=[share(shared)]), name="web") as vm:
        await vm.wait_for_agent()
        assert [helper.is_alive for helper in inspect_helpers(vm.plan)] == [True]
        end_helper(vm.paths)
        (helper,) = inspect_helpers(vm.plan)
        assert not helper.is_alive
        assert (await vm.exec(["/bin/true"])).exit_code == 0
        assert (await vm.status()).state is kvmctl.State.RUNNING
        found = await kvmctl.describe("web")
        assert found.helpers == (helper,)


def end_helper(paths: MachinePaths) -> None:
    """Kill every process of the machine's helpers."""
    while (helper := find_helper(paths)) is not None:
        with helper:
            helper.signal(signal.SIGKILL)
            assert helper.wait(10)


@pytest.mark.linux
@pytest.mark.slow
@needs_virtiofsd
async def test_a_machine_whose_virtiofsd_hangs_is_stopped_with_it(
    guest: tuple[str, str], shared: Path, roots: Roots
) -> None:
    async with await kvmctl.start(linux(guest, shares=[share(shared)])) as vm:
        await vm.wait_for_agent()
        stopped = stop_helper(vm.paths)
        assert (await vm.status()).state is kvmctl.State.RUNNING
        kvmctl.force_stop("web")
        assert not vm.is_alive
        assert find_helper(vm.paths) is None
    assert len(stopped) > 0
    assert not any(map(runs, stopped))


def runs(pid: int) -> bool:
    """Whether there is such a process, dead ones that nobody has collected left out."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def stop_helper(paths: MachinePaths) -> list[int]:
    """Stop the processes of the machine's helper in the middle of what they do; which they are."""
    found = {process: process.info["cmdline"] or () for process in psutil.process_iter(["cmdline"])}
    ours = [process for process, words in found.items() if paths.run in " ".join(words)]
    helpers = [process for process in ours if any("virtiofsd" in word for word in found[process][:4])]
    for process in helpers:
        process.suspend()
    return [process.pid for process in helpers]


@pytest.mark.linux
@needs_virtiofsd
async def test_a_share_whose_directory_is_removed_is_empty_and_the_machine_lives(
    guest: tuple[str, str], shared: Path, roots: Roots
) -> None:
    async with kvmctl.launch(linux(guest, shares=[share(shared)])) as vm:
        await vm.wait_for_agent()
        shutil.rmtree(shared)
        output = await said(vm, "cat /mnt/share/file; echo x >/mnt/share/new; ls /mnt/share")
        assert output.count("No such file or directory") == 1
        assert "can't create" in output
        assert (await vm.status()).state is kvmctl.State.RUNNING


@pytest.mark.parametrize("driver", ["auto", "9p"])
async def test_a_directory_that_is_not_there_is_named_with_its_key(tmp_path: Path, roots: Roots, driver: str) -> None:
    with pytest.raises(kvmctl.NotFound, match=r"shares\[0\].path: '.*/gone' does not exist"):
        await kvmctl.start(tiny(shares=[share(tmp_path / "gone", driver=driver)]))
    assert not os.path.exists(roots.machine("web").run)


async def test_a_file_is_no_directory_to_share(shared: Path, roots: Roots) -> None:
    with pytest.raises(kvmctl.NotFound, match=r"shares\[0\].path: '.*/file' is no directory"):
        await kvmctl.start(tiny(shares=[share(shared / "file")]))


async def test_without_a_virtiofsd_the_packages_are_named_and_auto_takes_9p(
    shared: Path, roots: Roots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVMCTL_VIRTIOFSD", "/nowhere/virtiofsd")
    with pytest.raises(kvmctl.SpecError, match=r"shares\[0\].driver: .*'/nowhere/virtiofsd'.*apt install virtiofsd"):
        kvmctl.prepare(tiny(shares=[share(shared, driver="virtiofs")]))
    (made,) = kvmctl.prepare(tiny(shares=[share(shared)])).plan.shares
    assert made.driver == "9p"
    async with kvmctl.launch(tiny(shares=[share(shared)])) as vm:
        await vm.wait_for_console("^READY")


async def test_the_last_words_of_a_virtiofsd_that_ends_at_once_are_quoted(
    shared: Path, roots: Roots, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KVMCTL_VIRTIOFSD", fake_virtiofsd(tmp_path, "echo no such luck >&2; exit 3"))
    with pytest.raises(kvmctl.LaunchFailed, match=r"virtiofsd of shares\[0\] exited with status 3") as caught:
        await kvmctl.start(tiny(shares=[share(shared)]))
    assert caught.value.detail == "no such luck"
    assert not os.path.exists(roots.machine("web").run)


@needs_virtiofsd
async def test_a_directory_that_goes_while_the_machine_is_started_fails_the_start(shared: Path, roots: Roots) -> None:
    plan = kvmctl.prepare(tiny(shares=[share(shared)])).plan
    shutil.rmtree(shared)
    with pytest.raises(kvmctl.LaunchFailed) as caught:
        await start_plan(plan._replace(inputs=()), roots.machine("web"))
    assert "No such file or directory" in caught.value.detail


@needs_virtiofsd
def test_a_machine_with_a_share_is_stopped_with_all_that_serves_it(shared: Path, roots: Roots, tmp_path: Path) -> None:
    spec = tmp_path / "web.toml"
    spec.write_text(
        f'memory = "16MiB"\nfirmware = "qboot.rom"\n[boot]\nkernel = "builtin:tiny"\n[[shares]]\npath = "{shared}"'
    )
    assert kvmctl.start_detached(str(spec)).name == "web"
    assert kvmctl.start_detached(str(spec), name="again").name == "again"  # by the kept plan
    for name in ("web", "again"):
        paths = roots.machine(name)
        assert find_helper(paths) is not None
        kvmctl.force_stop(name)
        assert find_helper(paths) is None


AS_USER = """
import shutil
sys.executable = shutil.which("python3", path="/usr/bin:/bin")
from kvmctl.ioctl import confine
confine.__file__ = os.environ["CONFINE"]
"""


@pytest.fixture
def as_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user without privileges, whose directories are his own."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)
        env = {key: value for key, value in os.environ.items() if key != "KVMCTL_QEMU"}
        for part in ("CONFIG", "STATE", "RUNTIME", "CACHE"):
            env[f"KVMCTL_{part}_DIR"] = str(home / part.lower())
        shutil.copy(confine.__file__, home / "confine.py")
        for path in (
            home / "shared",
            *(Path(env[f"KVMCTL_{part}_DIR"]) for part in ("CONFIG", "STATE", "RUNTIME", "CACHE")),
        ):
            path.mkdir()
        (home / "shared/file").write_text("from the host")
        for path in (home, *home.iterdir()):
            with suppress(PermissionError):
                os.chown(path, 65534, 65534)
        yield {**env, "HOME": name, "CONFINE": str(home / "confine.py")}


TRY_TO_WRITE = """
cd /mnt/kept; cat file; echo; echo x >new; echo x >>file; rm -f file; mkdir folder; chmod 777 file
mount -o remount,rw /mnt/kept; mkdir /mnt/again; mount -t virtiofs -o rw share1 /mnt/again
for there in /mnt/kept /mnt/again; do echo x >$there/new; echo x >>$there/file; rm -f $there/file; done
"""


@pytest.mark.linux
@needs_virtiofsd
def test_a_user_without_privileges_shares_what_is_his_and_is_root_of_it_in_the_guest(
    guest: tuple[str, str], as_nobody: dict[str, str]
) -> None:
    shared, kept = Path(as_nobody["HOME"]) / "shared", Path(as_nobody["HOME"]) / "kept"
    shutil.copytree(shared, kept)
    for path in (kept, kept / "file"):
        with suppress(PermissionError):
            os.chown(path, 65534, 65534)
    before = kept.stat().st_mtime_ns
    files = tuple(shutil.copy(path, as_nobody["HOME"]) for path in guest)
    shares = [share(shared), share(kept, mount="/mnt/kept", read_only=True)]
    script = f"""{AS_NOBODY}{AS_USER}
from tests.runtime.guests import linux, said
async def main():
    async with kvmctl.launch(linux({files!r}, shares={shares!r})) as vm:
        await vm.wait_for_agent()
        print(await said(vm, "cd /mnt/share; stat -c %u . ; cat file; echo; echo x >new; mknod disk b 8 0"))
        print(await said(vm, {TRY_TO_WRITE!r}))
asyncio.run(main())
"""
    output = run_script(script, env=as_nobody)
    assert output.startswith("0\nfrom the host\n")
    assert output.count("mknod: disk: Operation not permitted") == 1
    assert (shared / "new").read_text() == "x\n"
    mine, _, of_kept = output.partition("\n\n")
    assert "Read-only file system" not in mine
    assert of_kept.startswith("from the host\n")
    assert of_kept.count("Read-only file system") >= 5
    assert os.listdir(kept) == ["file"]
    assert (kept / "file").read_text() == "from the host"
    assert kept.stat().st_mtime_ns == before


def test_a_directory_that_a_user_may_not_read_is_named_with_its_owner(as_nobody: dict[str, str]) -> None:
    shared = Path(as_nobody["HOME"]) / "shared"
    shared.chmod(0)
    if os.getuid() == 0:
        os.chown(shared, 0, 0)
    script = f"""{AS_NOBODY}
try:
    print("started", asyncio.run(start(tiny(shares=[{share(shared, driver="9p")!r}]))))
except kvmctl.KvmctlError as error:
    print(type(error).__name__, error)
"""
    said = run_script(script, env=as_nobody)
    assert said.startswith(f"HostError shares[0].path: no permission to read the directory '{shared}'")
    assert f"owner {os.getuid()}" in said
