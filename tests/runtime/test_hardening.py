"""How QEMU runs, read back from the kernel: confined, private, and with no secret for others to see."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import kvmctl
from kvmctl import Roots

from .conftest import tiny

pytestmark = [pytest.mark.qemu]


def proc_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


async def test_qemu_runs_in_its_sandbox_and_gains_no_privileges(roots: Roots) -> None:
    async with kvmctl.launch(tiny()) as vm:
        status = proc_status(vm.pid)
    assert status["Seccomp"] == "2"
    assert status["NoNewPrivs"] == "1"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
async def test_everything_made_is_private_whatever_the_umask(roots: Roots, tmp_path: Path, umask: int) -> None:
    machine = tiny(disks=[{"path": str(tmp_path / "disks/new.qcow2"), "format": "qcow2", "size": "1MiB"}], vnc={})
    before = os.umask(umask)
    try:
        async with await kvmctl.start(machine) as vm:
            await vm.wait_for_console("^READY")
            made = modes(Path(roots.runtime)) | modes(tmp_path / "disks")
            await vm.kill()
            made |= modes(Path(roots.runtime))
    finally:
        os.umask(before)
    assert {"web", "qmp.sock", "console.sock", "vnc.sock", "journal.jsonl", "plan.json"} <= {path.name for path in made}
    wrong = {path: oct(mode) for path, mode in made.items() if mode != (0o700 if path.is_dir() else 0o600)}
    assert wrong == {}


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_what_is_kept_of_a_machine_is_private_whatever_the_umask(roots: Roots, umask: int) -> None:
    before = os.umask(umask)
    try:
        fields = {"memory": "16MiB", "firmware": "uefi", "disks": [{"size": "1MiB"}], "guest": {"hostname": "web"}}
        kvmctl.create("web", fields | {"boot": {"kernel": "builtin:tiny"}})
        for _ in range(2):
            kvmctl.start_detached("web")
            kvmctl.kill("web")
        made = modes(Path(roots.config)) | modes(Path(roots.state))
    finally:
        os.umask(before)
    names = {"web.toml", "machine-type", "nvram.qcow2", "disk0.qcow2", "history.jsonl", "id_ed25519", "seed.iso"}
    assert names <= {path.name for path in made}
    wrong = {path: oct(mode) for path, mode in made.items() if mode != (0o700 if path.is_dir() else 0o600)}
    assert wrong == {}
    kvmctl.remove("web")


def modes(root: Path) -> dict[Path, int]:
    return {path: stat.S_IMODE(path.lstat().st_mode) for path in [root, *root.rglob("*")]}


@pytest.mark.parametrize("origin", ["password_env", "password_file"])
async def test_no_secret_is_on_the_command_line_or_in_the_environment(
    roots: Roots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    secret = "correct-horse"
    monkeypatch.setenv("VNC_PASSWORD", secret)
    (tmp_path / "password").write_text(f"{secret}\n")
    value = {"password_env": "VNC_PASSWORD", "password_file": str(tmp_path / "password")}[origin]
    async with kvmctl.launch(tiny(vnc={"address": "127.0.0.1", "port": "auto", origin: value})) as vm:
        command = Path(f"/proc/{vm.pid}/cmdline").read_bytes()
        environment = Path(f"/proc/{vm.pid}/environ").read_bytes()
        plan = Path(vm.paths.plan).read_text()
        assert Path(vm.paths.secret("vnc-password")).read_text() == secret
        assert (await vm.status()).vnc is not None
    assert secret.encode() not in command
    assert secret not in plan
    if origin == "password_env":
        assert secret.encode() not in environment


async def test_qemu_keeps_no_directory_of_ours_busy_and_leaves_our_session(roots: Roots) -> None:
    async with kvmctl.launch(tiny()) as vm:
        assert os.readlink(f"/proc/{vm.pid}/cwd") == "/"
        assert os.getsid(vm.pid) == vm.pid


async def test_only_our_descriptors_are_inherited(roots: Roots) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        async with kvmctl.launch(tiny()) as vm:
            links = [os.readlink(path) for path in Path(f"/proc/{vm.pid}/fd").iterdir()]
    finally:
        os.close(read)
        inode = os.fstat(write).st_ino
        os.close(write)
    assert f"pipe:[{inode}]" not in links
