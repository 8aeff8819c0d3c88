"""A Debian that is told what to be does it, whichever way it is told: by cloud-init, or by systemd alone.

Told by credentials the same disk is one without cloud-init: with no seed in sight, its own detection disables it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest
from runtime.conftest import end_all

import kvmctl
from kvmctl import MachinePaths, Roots, Vm

IMAGES = Path(__file__).parents[2] / "machines/images/debian"
HASH = "$6$saltsalt$" + "a" * 86
PACKAGE: Final = "kvmctl-test"
DONE: Final = {"nocloud": r"Cloud-init v\. \S+ finished at", "credentials": "kvmctl: first boot is done"}
PATIENCE = 600
"""Seconds: a first boot with cloud-init takes 40 without KVM, and five times as long where others use the CPUs too."""

pytestmark = [
    pytest.mark.linux,
    pytest.mark.slow,
    pytest.mark.timeout(3 * PATIENCE),
    pytest.mark.skipif(not (IMAGES / "disk.qcow2").exists(), reason="run scripts/build-guest debian first"),
    pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh"),
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="there is no dpkg-deb"),
]


@dataclass(frozen=True)
class Debian:
    """A Debian with a state of its own, in `directory`, that is told by `way`."""

    way: str
    directory: Path
    roots: Roots
    mirror: int
    """The port of a repository with one package, on the host's loopback: where the guest finds it is 10.0.2.2."""

    @property
    def paths(self) -> MachinePaths:
        return self.roots.machine("web")

    def write_spec(self, *more: str, run: str = "echo ran >>/var/tmp/ran") -> str:
        path = self.directory / "web.toml"
        extra = "\n".join(more)
        path.write_text(f"""
            memory = "1GiB"
            cpus = 2
            accel = "tcg"
            [[disks]]
            path = "{self.directory}/disk.qcow2"
            [[networks]]
            type = "user"
            forward = ["127.0.0.1:0->22"]
            [guest]
            via = "{self.way}"
            hostname = "web-one"
            autologin = true
            timezone = "Europe/Berlin"
            packages = ["{PACKAGE}"]
            run = ["{run}", ["touch", "/var/tmp/with space"]]
            {extra}
            [[guest.users]]
            name = "bob"
            description = "Bob 100%"
            groups = ["adm"]
            sudo = true
            password_hash = '{HASH}'
            [[guest.users]]
            name = "root"
            [[guest.files]]
            path = "/etc/motd"
            content = "told: 100% 'quoted'\\n"
            [[guest.files]]
            path = "/etc/apt/sources.list"
            content = "deb [trusted=yes] http://10.0.2.2:{self.mirror} ./\\n"
            [[guest.files]]
            path = "/opt/new dir/program"
            source = "/bin/true"
            mode = "0750"
            owner = "bob:adm"
        """)
        return str(path)

    async def start(self, *more: str, **changes: str) -> Vm:
        return await kvmctl.start(self.write_spec(*more, **changes), roots=self.roots)


async def inside(vm: Vm, *command: str) -> str:
    """What `command` says in the guest, through the agent."""
    result = await vm.exec([*command])
    assert result.exit_code == 0, (command, result)
    return result.stdout.decode()


async def ssh(debian: Debian, vm: Vm, user: str, command: str) -> str:
    """What `command` says over ssh, by kvmctl's own key, to a guest whose key must be the one that we made."""
    (forward,) = (await vm.status()).forwards
    port = forward.split("->")[0].rpartition(":")[2]
    paths = debian.paths
    options = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": paths.known_hosts,
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": "kvmctl-web",
    }
    argv = ["ssh", "-F", "none", "-i", paths.ssh_key, "-p", port]
    argv += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    done = await asyncio.to_thread(
        subprocess.run,
        [*argv, f"{user}@127.0.0.1", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def wait_until_told(debian: Debian, vm: Vm) -> None:
    """Every boot of cloud-init ends with the same words; the script's first does, and later ones do nothing."""
    async with asyncio.timeout(PATIENCE):
        await vm.wait_for_console(DONE[debian.way])
        await vm.wait_for_agent()
        await inside(vm, "systemctl", "start", "ssh")  # which returns when it answers


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that says nothing of it."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # so it is called in the base class
        """Nothing is to be said."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[int]:
    """The port of a Debian repository with a package of our own."""
    served, package = tmp_path / "mirror", tmp_path / "package"
    (package / "DEBIAN").mkdir(parents=True)
    control = f"Package: {PACKAGE}\nVersion: 1.0\nArchitecture: all\nMaintainer: kvmctl\nDescription: a test\n"
    (package / "DEBIAN/control").write_text(control)
    (package / "usr/share").mkdir(parents=True)
    (package / f"usr/share/{PACKAGE}").write_text("installed\n")
    served.mkdir()
    file = served / "package.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(package), str(file)], check=True)
    data = file.read_bytes()
    found = f"Filename: ./{file.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    (served / "Packages").write_text(control + found)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(params=["nocloud", "credentials"])
def debian(
    request: pytest.FixtureRequest, tmp_path: Path, pytestconfig: pytest.Config, mirror: int
) -> Iterator[Debian]:
    cache = pytestconfig.cache
    assert cache is not None
    roots = Roots(*(str(tmp_path / part) for part in ("config", "state", "runtime")), str(cache.mkdir("kvmctl")))
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(IMAGES / "disk.qcow2")]
    subprocess.run([*create, str(tmp_path / "disk.qcow2")], check=True)
    yield Debian(request.param, tmp_path, roots, mirror)
    leaked = end_all(str(tmp_path))
    assert not leaked, f"left running: {leaked}"


async def check_told(debian: Debian, vm: Vm) -> None:
    """That everything was done, once."""
    assert await inside(vm, "hostname") == "web-one\n"
    prompt = await vm.wait_for_console(r"\w login: \w+ \(")
    assert "web-one login: bob (automatic login)" in prompt, "it was called otherwise when one could first log in"
    assert "adm" in (await inside(vm, "id", "-nG", "bob")).split()
    assert (await inside(vm, "getent", "shadow", "bob")).split(":")[1] == HASH
    assert "Bob 100%" in await inside(vm, "getent", "passwd", "bob")
    assert await inside(vm, "cat", "/etc/motd") == "told: 100% 'quoted'\n"
    assert await inside(vm, "stat", "-c", "%a %U:%G %s", "/opt/new dir/program") == (
        f"750 bob:adm {os.stat('/bin/true').st_size}\n"
    )
    assert await inside(vm, "readlink", "-f", "/etc/localtime") == "/usr/share/zoneinfo/Europe/Berlin\n"
    assert await inside(vm, "cat", "/var/tmp/ran") == "ran\n"
    await inside(vm, "test", "-e", "/var/tmp/with space")
    assert await inside(vm, "cat", f"/usr/share/{PACKAGE}") == "installed\n"
    assert "0 loaded units listed" in await inside(vm, "systemctl", "--failed", "--no-pager")


async def test_a_guest_is_told_once_and_anew_when_asked(debian: Debian) -> None:
    async with await debian.start() as vm:
        await wait_until_told(debian, vm)
        await check_told(debian, vm)
        public = await inside(vm, "cat", "/etc/ssh/ssh_host_ed25519_key.pub")
        assert public.split()[1] in Path(debian.paths.known_hosts).read_text()
        assert await ssh(debian, vm, "bob", "sudo -n whoami") == "root\n"
        assert await ssh(debian, vm, "root", "touch /root/mine; whoami") == "root\n"
        await shut_down(vm)
    async with await debian.start() as vm:
        async with asyncio.timeout(PATIENCE):
            await vm.wait_for_console("web-one login:")
            await vm.wait_for_agent()
            await inside(vm, "systemctl", "start", "ssh")
        await check_told(debian, vm)
        assert await ssh(debian, vm, "root", "ls /root/mine") == "/root/mine\n"
        await shut_down(vm)
    async with await debian.start('instance = "2"', run="echo again >>/var/tmp/ran") as vm:
        await wait_until_told(debian, vm)
        assert await inside(vm, "cat", "/var/tmp/ran") == "ran\nagain\n"
        assert await ssh(debian, vm, "bob", "whoami") == "bob\n"
        await shut_down(vm)


async def shut_down(vm: Vm) -> None:
    async with asyncio.timeout(PATIENCE):
        await vm.press_power_button()
        await vm.wait()
