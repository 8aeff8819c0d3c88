"""The parts that the small Linux guest is built with: package reader, ELF reader, module order, initramfs writer."""

from __future__ import annotations

import ctypes
import io
import lzma
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from guestbuild import rootfs  # noqa: E402

from kvmctl.errors import AptError  # noqa: E402
from kvmctl.image import zstd  # noqa: E402
from kvmctl.image.initramfs import cpio, elf, modules  # noqa: E402
from kvmctl.image.packages import deb  # noqa: E402
from kvmctl.image.packages.apt import Apt  # noqa: E402
from kvmctl.image.packages.deb import Member  # noqa: E402


def zstd_compressed(data: bytes) -> bytes:
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError:
        pytest.skip("libzstd.so.1 is not installed")
    library.ZSTD_compressBound.restype = library.ZSTD_compress.restype = ctypes.c_size_t
    space = ctypes.create_string_buffer(library.ZSTD_compressBound(ctypes.c_size_t(len(data))))
    size = library.ZSTD_compress(space, ctypes.c_size_t(len(space)), data, ctypes.c_size_t(len(data)), 3)
    return space.raw[:size]


def make_tar(entries: dict[str, bytes | str]) -> bytes:
    """A tar of files (bytes) and symbolic links (str), with a directory before them as dpkg-deb has it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        directory = tarfile.TarInfo("./usr")
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
        for name, content in entries.items():
            item = tarfile.TarInfo(f"./{name}")
            item.mode = 0o755
            if isinstance(content, str):
                item.type, item.linkname = tarfile.SYMTYPE, content
                archive.addfile(item)
            else:
                item.size = len(content)
                archive.addfile(item, io.BytesIO(content))
    return buffer.getvalue()


def make_ar(members: dict[str, bytes]) -> bytes:
    data = b"!<arch>\n"
    for name, content in members.items():
        data += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        data += content + b"\n" * (len(content) % 2)
    return data


def make_elf(sections: dict[str, tuple[int, int, bytes]]) -> bytes:
    """A 64-bit ELF file of nothing but sections: by name their type, link and bytes."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in [*sections, ".shstrtab"])
    body, headers, offset = b"", [struct.pack("<IIQQQQIIQQ", *[0] * 10)], 64
    for name, (kind, link, data) in {**sections, ".shstrtab": (3, 0, names)}.items():
        at = names.index(name.encode() + b"\0")
        headers.append(struct.pack("<IIQQQQIIQQ", at, kind, 0, 0, offset, len(data), link, 0, 0, 0))
        body, offset = body + data, offset + len(data)
    head = b"\x7fELF\x02\x01\x01".ljust(0x28, b"\0") + struct.pack("<Q", offset)
    head = head.ljust(0x3A, b"\0") + struct.pack("<HHH", 64, len(headers), len(headers) - 1)
    return head + body + b"".join(headers)


def make_module(*, depends: str = "", aliases: tuple[str, ...] = ()) -> bytes:
    items = [f"depends={depends}", "license=GPL", *(f"alias={alias}" for alias in aliases)]
    return make_elf({".modinfo": (1, 0, b"".join(item.encode() + b"\0" for item in items))})


def make_program(*needed: str, interpreter: str = "") -> bytes:
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in needed)
    entries = [(1, strings.index(name.encode() + b"\0")) for name in needed]
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in [*entries, (14, 0), (0, 0)])
    sections = {".dynstr": (3, 0, strings), ".dynamic": (6, 1, dynamic)}
    return make_elf({**sections, **({".interp": (1, 0, interpreter.encode() + b"\0")} if interpreter else {})})


# --- packages


@pytest.mark.parametrize("form", ["plain", "xz", "zst"])
def test_package_gives_its_files_and_links(tmp_path: Path, form: str) -> None:
    tar = make_tar({"usr/bin/tool": b"#!\n", "usr/bin/alias": "tool", "usr/odd": b"123"})
    data = {"plain": lambda: tar, "xz": lambda: lzma.compress(tar), "zst": lambda: zstd_compressed(tar)}[form]()
    path = tmp_path / "tool.deb"
    path.write_bytes(make_ar({"debian-binary": b"2.0\n", "control.tar": b"odd", f"data.tar.{form}": data}))
    assert list(deb.read_deb(path)) == [
        Member("usr/bin/tool", 0o755, b"#!\n"),
        Member("usr/bin/alias", 0o777, target="tool"),
        Member("usr/odd", 0o755, b"123"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a package", "is not a Debian package"),
        (make_ar({"debian-binary": b"2.0\n"}), r"has no data.tar"),
        (make_ar({"data.tar": b"x" * 100})[:-50], "is damaged"),
    ],
)
def test_what_is_no_package_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.deb"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(deb.read_deb(path))


def test_zstd_data_of_any_size_comes_back_and_damage_is_seen() -> None:
    for data in (b"", b"x", bytes(range(256)) * 40_000):
        assert zstd.decompress(zstd_compressed(data)) == data
    compressed = zstd_compressed(b"some text" * 100)
    with pytest.raises(ValueError, match="zstd data that ends"):
        zstd.decompress(compressed[:-5])
    with pytest.raises(ValueError, match="damaged zstd data"):
        zstd.decompress(b"\x28\xb5\x2f\xfd" + b"\xff" * 20)


# --- ELF and modules


def test_elf_sections_libraries_and_interpreter_are_read() -> None:
    program = make_program("libz.so.1", "libc.so.6", interpreter="/lib64/ld-linux-x86-64.so.2")
    assert elf.needed_libraries(program) == ["libz.so.1", "libc.so.6"]
    assert elf.interpreter(program) == "/lib64/ld-linux-x86-64.so.2"
    assert elf.needed_libraries(make_elf({".text": (1, 0, b"")})) == []
    assert elf.find_section(program, ".none") == b""
    with pytest.raises(ValueError, match="not a 64-bit"):
        elf.sections(b"\x7fELF\x01\x01")


def test_readelf_agrees_on_a_real_library() -> None:
    library = Path("/lib/x86_64-linux-gnu/libc.so.6")
    if shutil.which("readelf") is None or not library.exists():
        pytest.skip("readelf (binutils) or an x86-64 libc is not here")
    shown = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout
    needed = [line.split("[")[1].rstrip("]") for line in shown.splitlines() if "(NEEDED)" in line]
    assert elf.needed_libraries(library.read_bytes()) == needed


def find_in(files: dict[str, bytes]) -> object:
    return lambda name: modules.parse_module(name, files[name]) if name in files else None


def test_modules_come_after_what_they_depend_on_and_once() -> None:
    files = {
        "virtio": make_module(depends="virtio_ring"),
        "virtio_ring": make_module(),
        "virtio_pci": make_module(depends="virtio,virtio-ring,virtio_pci_modern_dev"),
        "virtio_pci_modern_dev": make_module(),
        "virtio_net": make_module(depends="virtio,net_failover"),
    }
    order = modules.closure(["virtio-pci", "virtio_net", "ext4", "absent"], find_in(files), builtin={"ext4"})
    assert [module.name for module in order] == [
        "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci", "virtio_net"
    ]  # fmt: skip


def test_compressed_modules_are_decompressed() -> None:
    plain = make_module(depends="a,b", aliases=("pci:v1*", "virtio:d2"))
    for data in (plain, lzma.compress(plain), zstd_compressed(plain)):
        module = modules.parse_module("x", data)
        assert (module.data, module.depends, module.aliases) == (plain, ("a", "b"), ("pci:v1*", "virtio:d2"))


def test_modprobe_finds_modules_by_dependency_and_alias() -> None:
    files = {
        "c": make_module(),
        "b": make_module(depends="c"),
        "a": make_module(depends="b", aliases=("pci:v1*", "pci:v2*")),
    }
    chosen = modules.closure(["a"], find_in(files), builtin=set())
    assert modules.dependency_index(chosen, lambda name: f"{name}.ko") == "c.ko:\nb.ko: c.ko\na.ko: b.ko c.ko\n"
    assert modules.alias_index(chosen) == "alias pci:v1* a\nalias pci:v2* a\n"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("lib/modules/6.1/kernel/drivers/virtio/virtio-pci.ko", "virtio_pci"),
        ("x/e1000.ko.xz", "e1000"),
        ("x/9p.ko.zst", "9p"),
        ("x/modules.dep", None),
        ("x/README", None),
    ],
)
def test_module_files_are_known_by_their_names(path: str, name: str | None) -> None:
    assert modules.module_name(path) == name


def test_builtin_modules_are_read() -> None:
    assert modules.builtin_modules("kernel/fs/ext4/ext4.ko\nkernel/lib/crc-t10dif.ko\n") == {"ext4", "crc_t10dif"}


# --- libraries


def test_libraries_are_followed_through_links_to_what_they_need() -> None:
    libc = make_program()
    libz = make_program("libc.so.6")
    offered = [
        Member("usr/lib/libz.so.1", 0o777, target="libz.so.1.3"),
        Member("usr/lib/libz.so.1.3", 0o644, libz),
        Member("lib/libc.so.6", 0o755, libc),
        Member("lib/unused.so", 0o755, b""),
    ]
    assert rootfs.find_libraries(["libz.so.1"], offered) == {"libc.so.6": libc, "libz.so.1": libz}
    with pytest.raises(AptError, match=r"no package has the library 'libx\.so'"):
        rootfs.find_libraries(["libx.so"], offered)


# --- the initramfs


def build_archive() -> bytes:
    archive = cpio.Archive()
    archive.add_character_device("dev/console", mode=0o600, number=(5, 1))
    archive.add_file("init", b"#!/bin/sh\n", mode=0o755)
    archive.add_file("/usr/share/a/b", b"12345")
    archive.add_link("bin/sh", "busybox")
    archive.add_directory("tmp", mode=0o1777)
    archive.add_directory("usr/share")
    return archive.finish()


def test_archive_is_the_same_every_time() -> None:
    assert build_archive() == build_archive()


def test_archive_is_what_cpio_reads() -> None:
    program = shutil.which("busybox") or shutil.which("cpio")
    if program is None:
        pytest.skip("neither busybox nor cpio is installed")
    command = [program, "cpio", "-tv"] if program.endswith("busybox") else [program, "-tv"]
    listed = subprocess.run(command, input=build_archive(), capture_output=True, check=True).stdout.decode()
    rows = {line.split(" -> ")[0].split()[-1]: line.split()[0] for line in listed.splitlines()}
    assert rows == {
        "dev": "drwxr-xr-x", "dev/console": "crw-------", "init": "-rwxr-xr-x", "usr": "drwxr-xr-x",
        "usr/share": "drwxr-xr-x", "usr/share/a": "drwxr-xr-x", "usr/share/a/b": "-rw-r--r--", "bin": "drwxr-xr-x",
        "bin/sh": "lrwxrwxrwx", "tmp": "drwxrwxrwt",
    }  # fmt: skip


def test_archive_refuses_two_things_of_one_name() -> None:
    archive = cpio.Archive()
    archive.add_file("etc/passwd", b"")
    with pytest.raises(ValueError, match="'etc/passwd' is in the archive already"):
        archive.add_file("/etc/passwd", b"")


# --- apt


@pytest.fixture
def apt(tmp_path: Path) -> Apt:
    if shutil.which("apt-get") is None:
        pytest.skip("this is no Debian or Ubuntu: there is no apt-get")
    return Apt(tmp_path / "apt")


def test_apt_knows_packages_and_what_they_depend_on(apt: Apt) -> None:
    if apt.find_candidate(["libc6"]) is None:
        pytest.skip("apt has no package lists")
    assert apt.find_candidate(["no-such-package", "libc6", "dpkg"]) == "libc6"
    assert apt.find_candidate(["no-such-package"]) is None
    assert apt.version("libc6")
    assert "libc6" in apt.depends("bash") + apt.depends("dash")


def test_package_that_apt_does_not_know_is_named(apt: Apt) -> None:
    with pytest.raises(AptError, match="no package 'no-such-package'"):
        apt.version("no-such-package")
