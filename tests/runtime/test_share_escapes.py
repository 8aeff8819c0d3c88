"""What root of a guest can do to the host by way of a shared directory: write in it where it may, and nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

import kvmctl
from kvmctl import Roots
from kvmctl.host.virtiofsd import probe_virtiofsd

from .guests import build, linux, said

pytestmark = [pytest.mark.qemu, pytest.mark.linux, pytest.mark.slow]

SECRET = "the host's own"

ESCAPES = """
share() { cd /mnt/share; }
mkdir -p /mnt/again
share
echo mounting; mount -o remount,rw /mnt/share; mount -t "$(awk '$2 == "/mnt/share" {print $3}' /proc/mounts)" \
    -o rw,trans=virtio share0 /mnt/again; mount -t virtiofs -o rw share0 /mnt/again; echo again >/mnt/again/again
blockdev --setrw share0; mount -o remount,rw,bind /mnt/share
echo writing; echo x >file; echo x >>file; echo x >new; mkdir newdir; rm -f doomed; rmdir empty; mv moved elsewhere
dd if=/dev/zero of=file bs=1 count=1 conv=notrunc; truncate -s 0 file; touch -d @1 file
echo modes; chmod 0777 file; chmod u+s file; chown 1000:1000 file; chmod 0777 .
echo handles; exec 3<file; echo x >/proc/self/fd/3; echo x >>/dev/fd/3; exec 3<&-
exec 4<.; echo x >/proc/self/fd/4/byfd; echo x >/proc/self/fd/4/../outside/byfd; exec 4<&-
echo x >/proc/self/cwd/../outside/bycwd; echo x >/proc/1/root/mnt/share/../outside/byroot
echo dots; cat ../outside/secret; ls ../outside; echo x >../outside/dots; cat dir/../../outside/secret
echo x >dir/../../outside/dots; cat ./../../../../../../../../../../..HOST/outside/secret
echo links; cat absolute relative folder/secret; echo x >absolute; echo x >relative; echo x >folder/new
ln -s HOST/outside/secret mine; ln -s ../outside/secret mine2; ln -s ../outside mine3; ln -s / mine4
cat mine mine2 mine3/secret mine4HOST/outside/secret; echo x >mine; echo x >mine2; echo x >mine3/mine; rm -f mine*
ln file hard; ln absolute hard2; ln relative hard3; ln ../outside/secret hard4; ln folder hard5
cat hard2 hard3 hard4; echo x >hard2; rm -f hard hard2 hard3 hard4 hard5
echo renames; mv file ../outside/; mv ../outside/secret .; mv dir ../outside/dir; mv renamed ../../outside/renamed
mkdir -p deep/er; mv deep/er ../outside/er; cd deep/er && mv ../../deep ../../../outside/deep; share; rm -rf deep
echo devices; mknod disk b DISK; chmod 666 disk; mknod mem c 1 1; mknod pipe p; mknod null c 1 3; cat disk | head -c 1
echo done
"""
"""All that root of a guest may think of, one thing after the other, whatever becomes of each."""


@dataclass(frozen=True, slots=True)
class Host:
    """Two directories side by side, of which one is shared."""

    shared: Path
    outside: Path

    @classmethod
    def make(cls, folder: Path) -> Host:
        host = cls(folder / "shared", folder / "outside")
        for directory in (host.shared, host.outside, host.shared / "dir", host.shared / "empty"):
            directory.mkdir()
        (host.outside / "secret").write_text(SECRET)
        for name in ("file", "doomed", "moved", "renamed", "dir/file"):
            (host.shared / name).write_text(name)
        (host.shared / "absolute").symlink_to(host.outside / "secret")
        (host.shared / "relative").symlink_to("../outside/secret")
        (host.shared / "folder").symlink_to("../outside")
        return host

    def escapes(self) -> str:
        """The attempts, knowing where things are and the number of a disk of the host."""
        disk = os.stat(self.shared).st_dev
        number = f"{os.major(disk)} {os.minor(disk)}"
        return ESCAPES.replace("HOST", str(self.outside.parent)).replace("DISK", number)


def digest(tree: Path) -> str:
    """A number that changes with anything that is in `tree`: names, contents, modes, owners, times."""
    return sha256("\n".join(sorted(describe(tree))).encode()).hexdigest()


def describe(tree: Path) -> Iterator[str]:
    for path in (tree, *tree.rglob("*")):
        status = path.lstat()
        content = ""
        if stat.S_ISREG(status.st_mode):
            content = sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        facts = (status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_mtime_ns, status.st_rdev)
        yield f"{path} {content} {facts}"


@pytest.fixture(scope="module")
def small() -> tuple[str, str]:
    return build()


@pytest.fixture(scope="module")
def generic() -> tuple[str, str]:
    return build("generic-linux")


@pytest.fixture(params=["virtiofs", "9p"])
def driver(request: pytest.FixtureRequest) -> str:
    if request.param == "virtiofs" and not (daemon := probe_virtiofsd(env=os.environ, cache=None)).works:
        pytest.skip(daemon.reason)
    return str(request.param)


@pytest.fixture
def guest(driver: str, request: pytest.FixtureRequest) -> tuple[str, str]:
    """A guest whose kernel has the driver, which the one for clouds has not of 9p."""
    files: tuple[str, str] = request.getfixturevalue("small" if driver == "virtiofs" else "generic")
    return files


@pytest.mark.parametrize("read_only", [True, False], ids=["read-only", "writable"])
async def test_root_of_a_guest_stays_within_the_share(
    guest: tuple[str, str], driver: str, tmp_path: Path, roots: Roots, *, read_only: bool
) -> None:
    host = Host.make(tmp_path)
    outside, shared = digest(host.outside), digest(host.shared)
    share = {"path": str(host.shared), "mount": "/mnt/share", "read_only": read_only, "driver": driver}
    async with kvmctl.launch(linux(guest, shares=[share])) as vm:
        await vm.wait_for_agent()
        assert "/mnt/share" in await said(vm, "cat /proc/mounts")
        output = await said(vm, host.escapes())
    (tmp_path / "output").write_text(output)
    assert output.endswith("done\n")
    assert SECRET not in output
    assert digest(host.outside) == outside
    if read_only:
        assert digest(host.shared) == shared
        assert "Read-only file system" in output
        return
    assert digest(host.shared) != shared
    assert (host.shared / "elsewhere").read_text() == "moved"
    kinds = {stat.S_IFMT(path.lstat().st_mode) for path in host.shared.rglob("*")}
    assert not kinds & {stat.S_IFBLK, stat.S_IFCHR}
