"""An archive from a guest becomes a directory, and nothing outside of it, whatever the archive says."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmctl.errors import CopyFailed
from kvmctl.guest.pack import look_at_tree, open_member
from kvmctl.guest.unpack import Unpacker


def archive(
    *members: tuple[str, dict[str, object]] | tuple[str, dict[str, object], bytes], form: int = tarfile.GNU_FORMAT
) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, fields, *data in members:
            info = tarfile.TarInfo(name)
            for key, value in fields.items():
                setattr(info, key, value)
            if data:
                info.size = len(data[0])
            tar.addfile(info, io.BytesIO(*data) if data else None)
    return out.getvalue()


def unpack(place: Path, data: bytes, *, piece: int = 1 << 20) -> Unpacker:
    place.mkdir(exist_ok=True)
    unpacker = Unpacker(str(place))
    try:
        for start in range(0, len(data), piece):
            unpacker.feed(memoryview(data)[start : start + piece])
        unpacker.finish()
    finally:
        unpacker.close()
    return unpacker


DIR, LINK, HARD = {"type": tarfile.DIRTYPE, "mode": 0o755}, {"type": tarfile.SYMTYPE}, {"type": tarfile.LNKTYPE}


@pytest.mark.parametrize("piece", [1, 7, 512, 1000, 1 << 20])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_files_directories_and_links_come_with_modes_and_times_in_pieces_of_any_size(
    tmp_path: Path, piece: int, form: int
) -> None:
    name = "d/" + "/".join(["n" * 90] * (1 if form == tarfile.USTAR_FORMAT else 3))
    data = archive(
        ("./", DIR | {"mode": 0o751, "mtime": 5}),
        ("./d", DIR | {"mode": 0o500, "mtime": 10**9}),
        *((f"./{'/'.join(name.split('/')[:count])}", DIR) for count in range(2, len(name.split("/")))),
        (f"./{name}", {"mode": 0o640, "mtime": 10**9 + 1}, b"x" * 1000),
        ("./empty", {"mode": 0o600}, b""),
        ("./link", LINK | {"linkname": "/etc/passwd"}),
        ("./twin", HARD | {"linkname": "./empty"}),
        form=form,
    )
    place = tmp_path / "place"
    unpack(place, data, piece=piece)
    file = place / name
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode), file.stat().st_mtime) == (
        b"x" * 1000,
        0o640,
        10**9 + 1,
    )
    assert (stat.S_IMODE((place / "d").stat().st_mode), (place / "d").stat().st_mtime) == (0o500, 10**9)
    assert (stat.S_IMODE(place.stat().st_mode), place.stat().st_mtime) == (0o751, 5)
    assert os.readlink(place / "link") == "/etc/passwd"
    assert (place / "twin").samefile(place / "empty")


OUTSIDE: dict[str, Callable[[Path], bytes]] = {
    "absolute path": lambda out: archive((f"{out}/evil", {}, b"x")),
    "dots": lambda out: archive(("../out/evil", {}, b"x")),
    "dots within": lambda out: archive(("a", DIR), ("a/../../out/evil", {}, b"x")),
    "through a link": lambda out: archive(("l", LINK | {"linkname": str(out)}), ("l/evil", {}, b"x")),
    "through a link to dots": lambda out: archive(("l", LINK | {"linkname": "../out"}), ("l/evil", {}, b"x")),
    "through links of links": lambda out: archive(
        ("a", DIR), ("a/b", LINK | {"linkname": ".."}), ("a/c", LINK | {"linkname": "b/../out"}), ("a/c/evil", {}, b"x")
    ),
    "directory through a link": lambda out: archive(("l", LINK | {"linkname": str(out)}), ("l/evil", DIR)),
    "link through a link": lambda out: archive(
        ("l", LINK | {"linkname": str(out)}), ("l/evil", LINK | {"linkname": "x"})
    ),
    "hard link to outside": lambda out: archive(("h", HARD | {"linkname": f"{out}/secret"})),
    "hard link by dots": lambda out: archive(("h", HARD | {"linkname": "../out/secret"})),
    "hard link through a link": lambda out: archive(
        ("l", LINK | {"linkname": str(out)}), ("h", HARD | {"linkname": "l/secret"})
    ),
    "a long name": lambda out: archive((f"{out}/{'../' * 60}{out}/evil", {}, b"x")),
    "a pax name": lambda out: archive((f"{out}/evil" + "n" * 200, {}, b"x"), form=tarfile.PAX_FORMAT),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_is_written_outside(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "out"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    with pytest.raises(CopyFailed, match="the guest sends"):
        unpack(tmp_path / "place", OUTSIDE[name](outside))
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").stat().st_nlink == 1


def test_a_file_in_place_of_a_link_does_not_write_through_it(tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_text("secret")
    unpack(tmp_path / "place", archive(("a", LINK | {"linkname": str(outside)}), ("a", {"mode": 0o777}, b"evil")))
    assert outside.read_text() == "secret"
    assert (tmp_path / "place/a").read_bytes() == b"evil"
    assert not (tmp_path / "place/a").is_symlink()


def test_modes_that_give_rights_and_special_files_are_left_out(tmp_path: Path) -> None:
    special = {"fifo": tarfile.FIFOTYPE, "char": tarfile.CHRTYPE, "block": tarfile.BLKTYPE, "unknown": b"Z"}
    data = archive(
        ("suid", {"mode": 0o6755}, b"x"), ("d", DIR | {"mode": 0o7777}), *((n, {"type": t}) for n, t in special.items())
    )
    unpacker = unpack(tmp_path / "place", data)
    assert stat.S_IMODE((tmp_path / "place/suid").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "place/d").stat().st_mode) == 0o777
    assert sorted(os.listdir(tmp_path / "place")) == ["d", "suid"]
    assert set(unpacker.skipped) == set(special)


@pytest.mark.parametrize("count", [1, 511, 512, 513, 1024, 1500])
def test_an_archive_that_is_cut_off_is_not_taken_for_whole(tmp_path: Path, count: int) -> None:
    with pytest.raises(CopyFailed, match="ends in the middle"):
        unpack(tmp_path / "place", archive(("a", {}, b"x" * 2000))[:count])


def test_a_file_for_the_directory_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CopyFailed, match="for the directory itself"):
        unpack(tmp_path / "place", archive(("./", {"type": tarfile.REGTYPE}, b"x")).replace(b"5\0ustar", b"0\0ustar"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2048), st.integers(0, 3000))
def test_nonsense_is_refused_or_ignored_and_never_breaks(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    place = tmp_path_factory.mktemp("noise")
    whole = archive(("a", DIR), ("a/b", {}, b"data" * 200), ("n" * 200, {}, b"x"), ("l", LINK | {"linkname": "a"}))
    data = whole[:at] + noise + whole[at + len(noise) :]
    with suppress(CopyFailed, OSError, ValueError):
        unpack(place / "in", data)
    assert os.listdir(place) == ["in"]


def test_what_is_packed_is_what_gnu_tar_and_we_unpack(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a b/deep").mkdir(parents=True)
    (tree / "a b/ünï").write_bytes(b"data")
    (tree / ("n" * 200)).write_bytes(b"x" * 5000)
    (tree / "a b/deep/link").symlink_to("../" + "y" * 150)
    os.mkfifo(tree / "fifo")
    (tree / "a b/ünï").chmod(0o751)
    os.utime(tree / "a b/ünï", (10**9, 10**9))
    packed = look_at_tree(str(tree), name="tree")
    assert packed.skipped == (str(tree / "fifo"),)
    data = b""
    for member in packed.members:
        data += member.header
        if member.path:
            with os.fdopen(open_member(member.path), "rb") as file:
                data += file.read() + bytes(member.padding)
    data += bytes(1024)
    assert len(data) == packed.size
    (tree / "fifo").unlink()
    unpack(tmp_path / "ours", data)
    (tmp_path / "gnu").mkdir()
    subprocess.run(["tar", "-xpf", "-", "-C", tmp_path / "gnu"], input=data, check=True)
    for place in ("ours", "gnu"):
        subprocess.run(["diff", "-r", "--no-dereference", tree, tmp_path / place / "tree"], check=True)
        file = tmp_path / place / "tree/a b/ünï"
        assert (stat.S_IMODE(file.stat().st_mode), file.stat().st_mtime) == (0o751, 10**9)
