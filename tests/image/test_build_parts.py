"""The parts that images are built with: partition table, GRUB's images, apt's sources, the directory of a build."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import uuid
import zlib
from pathlib import Path

import inotify_simple
import pytest

from kvmctl.errors import HostError, ImageError
from kvmctl.image.build import filter as seccomp
from kvmctl.image.build import gpt, grub, mirrors, pretend, tools
from kvmctl.image.build.bootstrap import explain, mmdebstrap_command
from kvmctl.image.build.debian import build_debian
from kvmctl.image.build.disk import Layout
from kvmctl.image.build.mirrors import Repository, Source
from kvmctl.image.build.tools import Tools
from kvmctl.image.build.workspace import workspace

SIZE = 2 << 30
HAS_NAMESPACES = (
    subprocess.run(["unshare", "--map-root-user", "--mount", "true"], capture_output=True, check=False).returncode == 0
)


def test_both_tables_of_a_disk_agree_and_have_right_checksums() -> None:
    layout = Layout.fresh(SIZE)
    table = gpt.make_table(layout.partitions, disk_id=layout.disk_id, disk_size=SIZE)
    assert (len(table.head), len(table.tail)) == (34 * 512, 33 * 512)
    last = SIZE // 512 - 1
    first, backup = table.head[512:1024], table.tail[-512:]
    for header, entries, at, other in ((first, table.head[1024:], 1, last), (backup, table.tail[:-512], last, 1)):
        assert header[:8] == b"EFI PART"
        size, checksum = struct.unpack_from("<II", header, 12)
        assert checksum == zlib.crc32(header[:16] + bytes(4) + header[20:size])
        assert struct.unpack_from("<QQ", header, 24) == (at, other)
        count, length, of_entries = struct.unpack_from("<III", header, 80)
        assert of_entries == zlib.crc32(entries[: count * length])
    assert table.head[1024:] == table.tail[:-512]


def test_partitions_are_aligned_follow_each_other_and_the_last_is_the_root() -> None:
    layout = Layout.fresh(SIZE)
    table = gpt.make_table(layout.partitions, disk_id=layout.disk_id, disk_size=SIZE)
    end = 34
    for partition, entry in zip(
        layout.partitions, struct.iter_unpack("<16s16sQQQ72s", table.head[1024:]), strict=False
    ):
        kind, _, first, last, _, name = entry
        assert (uuid.UUID(bytes_le=kind), name.decode("utf-16-le").rstrip("\0")) == (partition.type, partition.name)
        assert first >= end
        assert first % 2048 == 0
        end = last + 1
    assert layout.partitions[-1].type == gpt.ROOT_X86_64
    assert end <= SIZE // 512 - 33


def test_a_protective_partition_covers_the_disk() -> None:
    layout = Layout.fresh(SIZE)
    sector = gpt.make_table(layout.partitions, disk_id=layout.disk_id, disk_size=SIZE, boot_code=b"\x90" * 440).head
    assert sector[:440] == b"\x90" * 440
    assert sector[450] == 0xEE
    assert struct.unpack_from("<II", sector, 454) == (1, SIZE // 512 - 1)
    assert sector[510:512] == b"\x55\xaa"


@pytest.mark.parametrize("size", [0, 512, 1 << 29, (1 << 30) + 512])
def test_a_disk_that_is_too_small_or_uneven_is_refused(size: int) -> None:
    with pytest.raises(ImageError, match=f"an image can't have {size} bytes"):
        Layout.fresh(size)


def test_grub_is_told_where_its_parts_are() -> None:
    code = grub.boot_code(bytes(512), core_at=1 << 20)
    assert struct.unpack_from("<Q", code, 0x5C) == (2048,)
    core = grub.place_core(bytes(range(256)) * 5, core_at=1 << 20)
    assert len(core) == 3 * 512
    assert struct.unpack_from("<QHH", core, 0x1F4) == (2049, 2, 0x820)


def test_a_kernel_upgrade_needs_no_other_grub_configuration() -> None:
    config = grub.boot_config("1234", cmdline="console=ttyS0 quiet")
    assert "linux /vmlinuz root=UUID=1234 ro console=ttyS0 quiet\n" in config
    assert "initrd /initrd.img.old\n" in config


TARGETS = """MetaKey: main/binary-amd64/Packages
Origin: Acme
Label: Acme
Release: stable
Repo-URI: http://acme.example/debian/
Sourcesentry: /etc/apt/sources.list.d/acme.list:1

MetaKey: main/binary-amd64/Packages
Origin: Debian
Label: Debian
Release: bookworm
Repo-URI: http://mirror.example/debian/
Sourcesentry: /etc/apt/sources.list.d/debian.sources:1

MetaKey: main/binary-amd64/Packages
Origin: Debian
Label: Debian
Release: bookworm-backports
Repo-URI: http://backports.example/debian/
Sourcesentry: /etc/apt/sources.list:3

MetaKey: main/binary-amd64/Packages
Origin: Debian
Label: Debian-Security
Release: bookworm-security
Repo-URI: http://mirror.example/security/
Sourcesentry: /etc/apt/sources.list.d/debian.sources:2
"""


def test_an_image_gets_its_packages_from_where_this_host_does() -> None:
    found = mirrors.find_sources(
        mirrors.parse_targets(TARGETS),
        suite="bookworm",
        keyrings={"/etc/apt/sources.list.d/debian.sources:1": "/k.gpg"},
    )
    assert [source.line for source in found] == [
        "deb [signed-by=/k.gpg] http://mirror.example/debian/ bookworm main",
        f"deb [signed-by={mirrors.KEYRING}] http://mirror.example/security/ bookworm-security main",
    ]


def test_another_suite_comes_from_the_same_mirrors() -> None:
    found = mirrors.find_sources(mirrors.parse_targets(TARGETS), suite="trixie")
    assert [(source.uri, source.suite) for source in found] == [
        ("http://mirror.example/debian/", "trixie"),
        ("http://mirror.example/security/", "trixie-security"),
    ]


def test_unstable_has_neither_updates_nor_security() -> None:
    found = mirrors.find_sources(mirrors.parse_targets(TARGETS), suite="sid")
    assert [(source.uri, source.suite) for source in found] == [("http://mirror.example/debian/", "sid")]


def test_a_mirror_that_is_named_is_the_only_one() -> None:
    found = mirrors.find_sources([], suite="bookworm", mirror="http://other.example/debian")
    assert {source.uri for source in found} == {"http://other.example/debian"}
    assert found[0].stanza.startswith("Types: deb\nURIs: http://other.example/debian\nSuites: bookworm\n")


def test_a_host_without_debian_mirrors_is_told_to_name_one() -> None:
    with pytest.raises(HostError, match=r"knows no mirror of Debian.*\n.*--mirror"):
        mirrors.find_sources([Repository("http://u.example/ubuntu", "jammy", "Ubuntu", "Ubuntu")], suite="bookworm")


@pytest.mark.parametrize(
    ("text", "number", "found"),
    [
        ("Types: deb\nURIs: x\nSigned-By: /a.gpg\n\n# more\nTypes: deb\nSigned-By: /b.gpg\n", 1, "/a.gpg"),
        ("Types: deb\nURIs: x\nSigned-By: /a.gpg\n\n# more\nTypes: deb\nSigned-By: /b.gpg\n", 2, "/b.gpg"),
        ("Types: deb\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n", 1, None),
        ("# one\ndeb [arch=amd64 signed-by=/c.gpg] http://x bookworm main\n", 2, "/c.gpg"),
        ("deb http://x bookworm main\n", 1, None),
        ("", 1, None),
    ],
)
def test_the_keyring_of_an_entry_is_found_in_both_forms(text: str, number: int, found: str | None) -> None:
    assert mirrors.find_keyring(text, number=number) == found


@pytest.mark.parametrize(
    ("release", "suite"),
    [
        ({"ID": "debian", "VERSION_CODENAME": "trixie"}, "trixie"),
        ({"ID": "debian"}, "bookworm"),
        ({"ID": "ubuntu", "VERSION_CODENAME": "noble"}, "bookworm"),
        ({}, "bookworm"),
    ],
)
def test_the_suite_is_the_hosts_own_where_that_is_debians(release: dict[str, str], suite: str) -> None:
    assert mirrors.own_suite(release) == suite


@pytest.mark.parametrize(
    "wrong", [{"suite": "../etc"}, {"packages": ["a,b"]}, {"packages": ["?essential"]}, {"size": 5}]
)
def test_what_can_not_be_built_is_refused_before_anything_is_done(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises((HostError, ImageError)):
        build_debian(tmp_path / "out.qcow2", work=str(tmp_path / "work"), **wrong)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_programs_that_lack_are_named_all_at_once_with_their_packages(tmp_path: Path) -> None:
    for name in tools.NEEDED:
        if name not in {"mke2fs", "debugfs", "qemu-img"}:
            (tmp_path / name).symlink_to("/bin/true")
    with pytest.raises(HostError, match=r"'mke2fs', 'debugfs', 'qemu-img'.*\n.*apt-get install e2fsprogs qemu-utils"):
        tools.check_host(str(tmp_path))


def test_a_host_without_apt_is_told_what_it_takes(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"'apt-get' is not here\n.*Debian or Ubuntu"):
        tools.check_host(str(tmp_path))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (["E: x", "tar: write error: No space left on device"], "no space is left in '/cache'"),
        (["unshare: unshare failed: Operation not permitted"], "this host allows no namespaces"),
        (["E: Unable to locate package nosuch"], "a package is not there"),
        (["Err:1 http://127.0.0.1:1 bookworm InRelease", "E: apt-get update failed"], "the packages can't be fetched"),
        (["dpkg: error processing package"], "the packages can't be installed"),
    ],
)
def test_what_mmdebstrap_says_is_explained(said: list[str], words: str) -> None:
    error = explain(said, "/cache")
    assert error.summary.startswith(words)
    assert said[-1] in error.detail or said[0] in error.detail


def test_mmdebstrap_is_told_the_same_by_root_and_by_others_but_for_devices() -> None:
    kit = Tools("/t", "/usr/bin/mmdebstrap", "/usr/share/mmdebstrap/hooks", {})
    root, other = (
        mmdebstrap_command(kit, suite="bookworm", packages=["a", "b"], settings=[], is_root=is_root)
        for is_root in (True, False)
    )
    assert "--include=a,b" in root
    assert root[-1] == "bookworm"
    assert [option for option in other if "/dev" not in option] == root


def test_a_source_line_has_its_keyring() -> None:
    assert Source("http://x", "sid", "/k").line == "deb [signed-by=/k] http://x sid main"


def test_a_build_leaves_nothing_and_takes_away_what_a_dead_one_left(tmp_path: Path) -> None:
    parent = str(tmp_path / "builds")
    with workspace(parent) as alive:
        Path(alive.file("a")).touch()
        dead = Path(parent) / "build-dead"
        (dead / "deep").mkdir(parents=True)
        Path(f"{dead}.lock").touch()
        with workspace(parent) as other:
            assert Path(alive.file("a")).exists()
            assert not dead.exists()
            assert other.path != alive.path
        assert sorted(os.listdir(parent)) == sorted(
            [os.path.basename(alive.path), f"{os.path.basename(alive.path)}.lock"]
        )
    assert os.listdir(parent) == []


def test_a_build_that_a_child_still_works_at_is_not_swept(tmp_path: Path) -> None:
    parent = str(tmp_path)
    script = (
        "import os, subprocess, sys; from kvmctl.image.build.workspace import workspace\n"
        "with workspace(sys.argv[1]) as space:\n"
        "    quiet = dict.fromkeys(('stdout', 'stderr'), subprocess.DEVNULL)\n"
        "    subprocess.Popen(['sleep', '1000'], pass_fds=[space.lock], **quiet)\n"
        "    print(space.path, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, parent], capture_output=True, text=True, check=False)
    left = Path(done.stdout.strip())
    holders = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _holds(pid, f"{left}.lock")]
    try:
        with workspace(parent):
            assert left.is_dir()
    finally:
        for pid in holders:
            os.kill(pid, 9)
    assert len(holders) == 1


def _holds(pid: int, path: str) -> bool:
    try:
        return any(os.readlink(f"/proc/{pid}/fd/{name}") == path for name in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False


@pytest.mark.skipif(not HAS_NAMESPACES, reason="this host allows no user namespaces")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter is for x86-64")
def test_files_given_away_are_noted_and_nothing_else_is_changed(tmp_path: Path) -> None:
    script = r"""
        mkdir -p "$0/a/d"; cd "$0/a"
        touch by-path by-link later gone kept; ln -s by-path link; ln -s "/a/d" absolute; mkfifo fifo
        chown 5:6 by-path; chown -h 7:8 link; chgrp 42 later; chown 9 later
        chown 1:1 gone; rm gone; touch new
        mknod null c 1 3 && sync && [ ! -e null ]
        chown 3:3 no-such-file 2>/dev/null && exit 4
        cp by-path copy
        exit 3
    """
    root, record = tmp_path / "root", tmp_path / "record.json"
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", sys.executable, "-I",
         pretend.__file__, seccomp.all_of_it().hex(), str(root), str(record), "sh", "-c", script, str(root)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    noted = sorted(json.loads(record.read_text()))
    assert noted == [["/a/by-path", 5, 6], ["/a/later", 9, 42], ["/a/link", 7, 8]]
    assert {path.stat(follow_symlinks=False).st_uid for path in root.rglob("*")} == {os.getuid()}


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter is for x86-64")
def test_for_root_only_waiting_for_the_disk_is_left_out(tmp_path: Path) -> None:
    script = "import os; os.fsync(os.open(os.curdir, os.O_RDONLY)); os.sync(); os.mkfifo('x'); os.chown('x', -1, -1)"
    argv = [sys.executable, "-I", pretend.__file__, seccomp.syncs_only().hex(), "", "", sys.executable, "-c", script]
    subprocess.run(argv, cwd=tmp_path, check=True)
    assert (tmp_path / "x").is_fifo()


def test_name_servers_are_written_as_they_become_known(tmp_path: Path) -> None:
    script = Path(pretend.__file__).parent / "tree/usr/local/lib/resolv-conf"
    state, target = tmp_path / "state", tmp_path / "resolv.conf"
    state.write_text("# private\nOPER_STATE=off\n")
    with inotify_simple.INotify() as watch:
        watch.add_watch(str(tmp_path), inotify_simple.flags.MOVED_TO)
        follower = subprocess.Popen([script, state, target], start_new_session=True)
        try:
            for text, wanted in (
                ("# private\nDNS=10.0.2.3 fec0::3\n", "nameserver 10.0.2.3\nnameserver fec0::3\n"),
                ("# private\nDNS=10.0.2.4\nDOMAINS=example.org lan\n", "nameserver 10.0.2.4\nsearch example.org lan\n"),
            ):
                (tmp_path / "new").write_text(text)
                (tmp_path / "new").rename(state)
                while not target.exists() or target.read_text() != wanted:
                    assert watch.read(timeout=30_000), f"{wanted!r} never came"
        finally:
            os.killpg(follower.pid, 15)
            follower.wait()
