"""Machines made of this host that can't be, or that end badly: said clearly, with the evidence, and nothing left."""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import struct
from pathlib import Path

import pytest

import kvmctl
from kvmctl import AptError, HostError, HostRoot, ImageError, KvmctlError, NotFound, NotRunning, Roots, SpecError
from kvmctl.image.kernel import bzimage
from kvmctl.image.kernel.find import find_kernel, installed
from kvmctl.runtime.hostroot.bootfiles import boot_files
from kvmctl.runtime.hostroot.launch import find_boot_files
from kvmctl.runtime.hostroot.users import find_user

from .guests import build

PAYLOAD = b"\x7fELF\x02\x01\x01".ljust(64, b"\0")


def make_bzimage(version: str = "9.9.9-test", payload: bytes = PAYLOAD) -> bytes:
    """A kernel's image as far as anybody here looks at it."""
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x300 - 0x200)
    struct.pack_into("<II", head, 0x248, 0, len(payload))
    head[0x300 : 0x300 + len(version) + 10] = f"{version} (someone)".encode()[: len(version) + 10]
    return bytes(head) + payload


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A kernel that no machine could boot."""
    path = tmp_path / "kernel" / "bzImage"
    path.parent.mkdir()
    path.write_bytes(make_bzimage())
    return path


def find(wanted: HostRoot, roots: Roots) -> object:
    return find_boot_files(wanted, roots=roots, say=lambda _: None)


def left_of(roots: Roots) -> list[str]:
    """What is in the runtime directory, if there is one."""
    return os.listdir(roots.runtime) if os.path.exists(roots.runtime) else []


# --- the kernel


def test_a_kernel_that_is_not_there_is_said_with_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "vmlinuz-6.1.0-5-amd64").write_bytes(make_bzimage())
    places = {"boot": str(tmp_path / "boot"), "lib": str(tmp_path / "modules")}
    with pytest.raises(NotFound, match=r"the kernel that runs, '.*', is not here as a file") as caught:
        find_kernel(None, **places)
    assert caught.value.detail == "installed: 6.1.0-5-amd64"
    assert "--kernel" in caught.value.hint
    with pytest.raises(NotFound, match=r"there is no kernel '7\.7'"):
        find_kernel("7.7", **places)
    with pytest.raises(NotFound, match=r"there is no kernel '\./no/such'"):
        find_kernel("./no/such")
    with pytest.raises(NotFound, match="neither arch/x86/boot/bzImage nor vmlinuz"):
        find_kernel(f"{tmp_path}/boot")


def test_kernels_are_found_as_distributions_and_builds_leave_them(tmp_path: Path) -> None:
    boot, lib = tmp_path / "boot", tmp_path / "lib" / "modules"
    tree = tmp_path / "linux"
    for path in (boot / "vmlinuz-1.1", lib / "2.2" / "vmlinuz", tree / "arch/x86/boot/bzImage"):
        path.parent.mkdir(parents=True)
        path.write_bytes(make_bzimage(path.name.removeprefix("vmlinuz-") if "1.1" in path.name else "2.2"))
    (lib / "1.1").mkdir()
    places = {"boot": str(boot), "lib": str(lib)}
    assert find_kernel("1.1", **places).modules == str(lib / "1.1")
    assert find_kernel("2.2", **places).modules == str(lib / "2.2")
    assert find_kernel(str(tree), **places).modules == str(tree)
    assert find_kernel(str(boot / "vmlinuz-1.1"), modules=str(lib), **places).modules == str(lib)
    assert installed(**places) == ["1.1", "2.2"]


@pytest.mark.parametrize("content", [b"", b"MZ" + bytes(100), bytes(70000), b"#!/bin/sh\n" * 100])
def test_what_is_no_kernel_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ImageError, match="is no x86 Linux kernel"):
        find_kernel(str(tmp_path / "file"))


def test_a_kernel_that_ends_in_the_middle_is_damaged(roots: Roots, made: Path) -> None:
    made.write_bytes(make_bzimage()[:-10])
    with pytest.raises(ImageError, match=r"bzImage' is damaged: it ends in the middle"):
        find(HostRoot(kernel=str(made)), roots)
    made.write_bytes(make_bzimage(payload=gzip.compress(os.urandom(10000))[:5000]))
    with pytest.raises(ImageError, match="is damaged"):
        find(HostRoot(kernel=str(made)), roots)


def test_a_kernel_that_qemu_can_not_start_unpacked_is_started_as_it_is(roots: Roots, made: Path) -> None:
    found = boot_files(find_kernel(str(made)), roots=roots)
    assert found.kernel == str(made)
    assert found.version == "9.9.9-test"


def test_boot_files_are_made_once_and_again_when_something_has_changed(roots: Roots, made: Path) -> None:
    modules = made.parent / "modules"
    modules.mkdir()
    (modules / "modules.builtin").write_text("kernel/virtio_pci.ko\nkernel/virtio_console.ko\n")
    first = boot_files(find_kernel(str(made)), roots=roots)
    stamp = os.stat(first.initramfs).st_ino
    assert boot_files(find_kernel(str(made)), roots=roots) == first
    assert os.stat(first.initramfs).st_ino == stamp
    assert set(first.missing) == {"virtiofs", "9p", "overlay", "network"}
    (modules / "modules.builtin").write_text("kernel/virtio_pci.ko\nkernel/virtio_console.ko\nkernel/virtiofs.ko\n")
    second = boot_files(find_kernel(str(made)), roots=roots)
    assert set(second.missing) == {"9p", "overlay", "network"}
    assert not os.path.exists(os.path.dirname(first.initramfs)), "what nobody needs any more is gone"
    os.unlink(second.initramfs)
    assert os.path.exists(boot_files(find_kernel(str(made)), roots=roots).initramfs)


def test_a_module_that_is_none_is_named(roots: Roots, made: Path) -> None:
    (made.parent / "modules").mkdir()
    (made.parent / "modules" / "virtio_pci.ko").write_bytes(b"no ELF file")
    with pytest.raises(ImageError, match=r"module '.*virtio_pci\.ko' can't be read: not a 64-bit"):
        find(HostRoot(kernel=str(made)), roots)


def test_modules_that_are_not_where_they_are_said_to_be_are_missed(roots: Roots, made: Path) -> None:
    with pytest.raises(NotFound, match="there is no directory '/no/modules'"):
        find(HostRoot(kernel=str(made), modules="/no/modules"), roots)
    with pytest.raises(ImageError, match="brings its own modules"):
        find(HostRoot(kernel="linux-image-cloud-amd64", modules="/"), roots)


@pytest.mark.skipif(shutil.which("apt-cache") is None, reason="this is no Debian or Ubuntu: there is no apt")
def test_a_package_that_there_is_not_is_said_and_nothing_is_kept(roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmctl.image.packages.apt.Apt.refresh", lambda _: None)  # no mirror need be asked
    with pytest.raises(AptError, match="no package 'linux-image-of-nobody'"):
        find(HostRoot(kernel="linux-image-of-nobody"), roots)
    assert not [name for name in os.listdir(roots.kernel_cache) if "nobody" in name and not name.endswith(".lock")]


@pytest.mark.parametrize(
    ("builtin", "wanted", "message"),
    [
        ("virtiofs", {}, "can't be run so: it lacks virtio_pci, virtio_console"),
        ("virtio_pci virtio_console overlay", {}, "it has neither virtiofs nor 9p"),
        (
            "virtio_pci virtio_console virtiofs",
            {"writable": True},
            "can't have a layer over its root: it lacks overlay",
        ),
        ("virtio_pci virtio_console virtiofs", {"network": True}, "can't have a network: it lacks virtio_net"),
    ],
)
async def test_what_a_kernel_lacks_is_said_before_it_is_started(
    roots: Roots, made: Path, builtin: str, wanted: dict[str, bool], message: str
) -> None:
    (made.parent / "modules").mkdir()
    (made.parent / "modules" / "modules.builtin").write_text("".join(f"x/{name}.ko\n" for name in builtin.split()))
    with pytest.raises(HostError, match=message):
        await kvmctl.run_host_root(["true"], HostRoot(kernel=str(made), **wanted), roots=roots)
    assert left_of(roots) == []


# --- what is asked for


def test_directories_that_can_not_be_given_are_named(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "in").mkdir(parents=True)
    wanted = HostRoot(root=str(tree), write=(str(tree / "in"),))
    assert list(wanted.write_directories()) == [(str(tree / "in"), "/in")]
    for path, error, message in (
        (f"{tree}/none", NotFound, "there is no directory"),
        (str(tmp_path), KvmctlError, "is not below"),
        (str(tree), KvmctlError, "is all of the guest's root"),
    ):
        with pytest.raises(error, match=message):
            list(HostRoot(root=str(tree), write=(path,)).write_directories())
    with pytest.raises(KvmctlError, match="is all of the guest's root"):
        list(HostRoot(write=("/",)).write_directories())
    with pytest.raises(KvmctlError, match="the directory to run in, '/usr', is not below"):
        HostRoot(root=str(tree), directory="/usr").start_directory()
    assert HostRoot(root=str(tree), directory=str(tree / "in")).start_directory() == "/in"
    assert HostRoot(root=str(tree)).start_directory() == "/"


def test_users_are_those_of_the_guests_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("broken line\nsue:x:77:78:Sue:/home/sue:\n")
    (tmp_path / "etc" / "group").write_text("crew:x:79:sue\n")
    sue = find_user("sue", root=str(tmp_path))
    assert (sue.uid, sue.gid, sue.groups, sue.home, sue.shell) == (77, 78, (78, 79), "/home/sue", "/bin/sh")
    assert find_user("77", root=str(tmp_path)) == sue
    assert find_user("4000", root=str(tmp_path)).uid == 4000
    with pytest.raises(NotFound, match="no user 'root' in the guest"):
        find_user("root", root=str(tmp_path))


# --- real guests


@pytest.fixture(scope="module")
def kernel() -> str:
    return build()[0]


real = [pytest.mark.qemu, pytest.mark.linux, pytest.mark.slow]


def modules_of(kernel: str, directory: Path, *names: str) -> str:
    """A directory with only those of the kernel's modules."""
    directory.mkdir()
    for name in names:
        shutil.copy(Path(kernel).parent / "modules" / f"{name}.ko", directory)
    return str(directory)


BOOT = ("virtio", "virtio_ring", "virtio_pci", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_console")


class TestGuests:
    """Each boots one."""

    pytestmark = real

    @pytest.mark.parametrize(
        ("names", "lacks"), [((), "virtio-pci"), (BOOT[:-1], "virtio_console"), (BOOT, "virtiofs")]
    )
    async def test_what_nobody_knew_a_kernel_to_lack_the_guest_tells(
        self, roots: Roots, kernel: str, tmp_path: Path, names: tuple[str, ...], lacks: str
    ) -> None:
        wanted = HostRoot(kernel=kernel, modules=modules_of(kernel, tmp_path / "few", *names))
        with pytest.raises(HostError, match=f"has no {lacks}") as caught:
            await kvmctl.run_host_root(["true"], wanted, roots=roots)
        assert "--modules" in caught.value.hint
        assert left_of(roots) == []

    async def test_a_module_of_another_kernel_is_named(self, roots: Roots, kernel: str, tmp_path: Path) -> None:
        directory = Path(modules_of(kernel, tmp_path / "few", *BOOT, "fuse", "virtiofs"))
        path = directory / "virtiofs.ko"
        path.write_bytes(path.read_bytes().replace(b"vermagic=6.", b"vermagic=5."))
        with pytest.raises(kvmctl.AgentError, match=r"load the kernel module virtiofs\.ko: "):
            await kvmctl.run_host_root(["true"], HostRoot(kernel=kernel, modules=str(directory)), roots=roots)

    async def test_a_panic_is_told_with_the_end_of_the_console(self, roots: Roots, kernel: str) -> None:
        command = ["sh", "-c", "echo c >/proc/sysrq-trigger"]
        with pytest.raises(NotRunning, match="the guest's kernel panicked") as caught:
            await kvmctl.run_host_root(command, HostRoot(kernel=kernel, directory="/"), roots=roots)
        assert "Kernel panic - not syncing: sysrq triggered crash" in caught.value.detail
        assert left_of(roots) == []

    async def test_a_guest_that_powers_off_ends_its_command(self, roots: Roots, kernel: str) -> None:
        command = ["sh", "-c", "echo o >/proc/sysrq-trigger; sleep 1000"]
        with pytest.raises(NotRunning, match="ended before its command did: guest-shutdown"):
            await kvmctl.run_host_root(command, HostRoot(kernel=kernel, directory="/"), roots=roots)

    async def test_a_qemu_that_is_killed_ends_the_command(self, roots: Roots, kernel: str) -> None:
        async with kvmctl.launch_host_root(HostRoot(kernel=kernel, directory="/"), roots=roots) as guest:
            task = asyncio.ensure_future(guest.run(["sleep", "1000"]))
            await guest.vm.kill()
            with pytest.raises(NotRunning, match="ended before its command did: killed"):
                await task
        assert left_of(roots) == []

    async def test_a_virtiofsd_that_is_missing_is_said_with_what_to_install(
        self, roots: Roots, kernel: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KVMCTL_VIRTIOFSD", "/no/such/virtiofsd")
        with pytest.raises(HostError, match="directories can't be shared with this kernel here") as caught:
            await kvmctl.run_host_root(["true"], HostRoot(kernel=kernel), roots=roots)
        assert "apt install virtiofsd" in caught.value.hint
        assert left_of(roots) == []

    async def test_being_cancelled_leaves_nothing(self, roots: Roots, kernel: str) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):  # in the middle of the boot, or of the command
                await kvmctl.run_host_root(["sleep", "1000"], HostRoot(kernel=kernel, directory="/"), roots=roots)
        assert left_of(roots) == []


async def test_what_no_machine_can_have_is_told_as_in_a_spec(roots: Roots, made: Path) -> None:
    with pytest.raises(SpecError, match=r"memory\.size: is less than 1MiB"):
        await kvmctl.run_host_root(["true"], HostRoot(kernel=str(made), memory=4096), roots=roots)


def test_the_version_is_read_and_the_kernel_proper_found() -> None:
    notes = struct.pack("<III", 4, 4, 18) + b"Xen\0" + bytes(4)
    elf = bytearray(b"\x7fELF\x02\x01\x01".ljust(64, b"\0"))
    struct.pack_into("<Q", elf, 0x20, 64)
    struct.pack_into("<HH", elf, 0x36, 56, 1)
    program = struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(notes), 0, 0)
    whole = bytes(elf) + program + notes
    for payload in (whole, gzip.compress(whole)):
        image = make_bzimage("6.6", payload)
        assert bzimage.is_bzimage(image)
        assert bzimage.find_version(image) == "6.6"
        assert bzimage.find_vmlinux(image) == whole
    assert bzimage.find_vmlinux(make_bzimage("6.6", b"some other compression")) is None
