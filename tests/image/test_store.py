"""The store: what is in it stands alone, is whole, and stays for as long as anybody needs it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kvmctl
from kvmctl import ImageBusy, ImageError, ImageMissing, NotFound, Roots, StateError
from kvmctl.image import ofd, overlay, qcow2, qemuimg
from kvmctl.image.record import Origin
from kvmctl.image.store import Store
from kvmctl.plan.guest import TellGuest
from kvmctl.plan.model import CreateOverlay
from kvmctl.plan.paths import ImagePaths

from .conftest import CONTENT, OTHER, digest_of, files_under

ROOT = Path(__file__).parents[2]
QEMU_IMG = pytest.mark.qemu


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "acme.raw"
    path.write_bytes(CONTENT)
    return path


def add(roots: Roots, path: Path, **how: Any) -> kvmctl.Image:
    return kvmctl.import_image(path, roots=roots, **how)


def make(path: Path, *words: str, size: str = "8M") -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *words, str(path), size], check=True)
    return path


def overlay_of(roots: Roots, image: str, *, machine: str = "web") -> str:
    """A machine's disk that begins as `image`."""
    path = f"{roots.machine(machine).disks}/disk0.{image}.qcow2"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    step = CreateOverlay(path, roots.images, image, None, "disks[0].image")
    overlay.create(step, qemu="qemu-system-x86_64", catalogue=roots.catalogue)
    return path


def test_an_imported_image_is_a_copy_called_by_its_file(raw: Path, roots: Roots) -> None:
    image = add(roots, raw)
    assert (image.name, image.format, image.size, image.source) == ("acme", "raw", len(CONTENT), str(raw))
    blob = Path(roots.images, "sha256", digest_of(CONTENT))
    assert blob.read_bytes() == raw.read_bytes() == CONTENT
    assert stat.S_IMODE(blob.stat().st_mode) == 0o400
    assert stat.S_IMODE(os.stat(roots.images).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(f"{roots.images}/names/acme.json").st_mode) == 0o600


def test_zeroes_of_an_imported_image_take_no_space(tmp_path: Path, roots: Roots) -> None:
    path = tmp_path / "sparse.raw"
    with path.open("wb") as file:
        file.write(b"begin")
        file.seek(64 << 20)
        file.write(b"end")
    image = add(roots, path)
    blob = Path(roots.images, "sha256", image.digest)
    assert blob.read_bytes() == path.read_bytes()
    assert blob.stat().st_blocks * 512 < 3 << 20
    assert image.size == (64 << 20) + 512  # whole sectors


def test_the_same_content_under_two_names_is_kept_once(raw: Path, roots: Roots) -> None:
    add(roots, raw)
    add(roots, raw, name="again")
    assert files_under(roots.images) == ["names/acme.json", "names/again.json", f"sha256/{digest_of(CONTENT)}"]
    assert kvmctl.remove_image("acme", roots=roots).kept_for == ("the name 'again'",)
    assert kvmctl.remove_image("again", roots=roots).kept_for == ()
    assert files_under(roots.images) == []


def test_a_name_goes_over_to_what_is_imported_under_it_later(raw: Path, roots: Roots) -> None:
    add(roots, raw)
    raw.write_bytes(OTHER)
    add(roots, raw)
    assert [info.image and info.image.digest for info in kvmctl.list_images(roots)] == [digest_of(OTHER)]


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        ("acme.img", {}, "the format of '.*acme.img' can't be told from its name"),
        ("acme.raw", {"name": "a/b"}, "no image can be called 'a/b'"),
        ("acme.raw", {"image_format": "qcow2"}, "'acme.raw' is not a qcow2 image"),
        ("empty.raw", {}, "the image 'empty.raw' is empty"),
        ("folder.raw", {}, "folder.raw' is not a file"),
    ],
)
def test_what_can_be_no_image_is_refused_and_nothing_is_left(
    raw: Path, roots: Roots, name: str, how: dict[str, Any], words: str
) -> None:
    raw.with_name("acme.img").write_bytes(CONTENT)
    raw.with_name("empty.raw").touch()
    raw.with_name("folder.raw").mkdir()
    with pytest.raises(ImageError, match=words):
        add(roots, raw.with_name(name), **how)
    assert files_under(roots.images) == []


def test_a_file_that_is_not_there_is_not_found(roots: Roots, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no image file"):
        add(roots, tmp_path / "gone.raw")


@QEMU_IMG
def test_an_image_that_needs_other_files_is_refused(tmp_path: Path, roots: Roots) -> None:
    base = make(tmp_path / "base.qcow2")
    cases = {
        "is an overlay of '.*base.qcow2'": make(tmp_path / "a.qcow2", "-b", str(base), "-F", "qcow2"),
        "keeps its data in another file": make(tmp_path / "b.qcow2", "-o", f"data_file={tmp_path}/b.raw"),
    }
    for words, path in cases.items():
        with pytest.raises(ImageError, match=words) as caught:
            add(roots, path)
        assert "qemu-img convert" in caught.value.hint
    assert files_under(roots.images) == []


@QEMU_IMG
def test_a_damaged_qcow2_image_is_refused(tmp_path: Path, roots: Roots) -> None:
    whole = make(tmp_path / "whole.qcow2").read_bytes()
    cases = {
        "is cut off": whole[:70000],
        "is encrypted": whole[:32] + (2).to_bytes(4) + whole[36:],
        "is marked as corrupt": whole[:79] + b"\x02" + whole[80:],
        "is not a qcow2 image": whole[:50],
    }
    for words, content in cases.items():
        path = tmp_path / "damaged.qcow2"
        path.write_bytes(content)
        with pytest.raises(ImageError, match=words):
            add(roots, path)
    assert files_under(roots.images) == []


@QEMU_IMG
@pytest.mark.parametrize("layout", ["0.10", "1.1"])
def test_the_size_of_a_disk_is_read_from_either_layout(tmp_path: Path, roots: Roots, layout: str) -> None:
    image = add(roots, make(tmp_path / "a.qcow2", "-o", f"compat={layout}", size="5G"))
    assert (image.format, image.size) == ("qcow2", 5 << 30)


def test_a_raw_image_that_looks_like_an_overlay_stays_what_it_is_said_to_be(tmp_path: Path, roots: Roots) -> None:
    header = b"QFI\xfb" + (3).to_bytes(4) + (104).to_bytes(8) + (11).to_bytes(4)
    path = tmp_path / "a.raw"
    path.write_bytes(header.ljust(104, b"\0") + b"/etc/shadow" + bytes(1 << 20))
    assert add(roots, path).format == "raw"


def test_an_image_that_a_machine_writes_is_refused(raw: Path, roots: Roots) -> None:
    source = (
        "import fcntl, os, struct, sys; f = open(sys.argv[1], 'r+b'); "
        "fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack('hhqqi4x', fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0)); "
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source, str(raw)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(ImageBusy, match="is being written by a machine"):
            add(roots, raw)
        process.communicate("")


def test_what_a_killed_import_left_is_no_image_and_is_cleared_away(raw: Path, roots: Roots) -> None:
    source = (
        "import os, sys, kvmctl\n"
        "def stop(done):\n    os.kill(os.getpid(), 9)\n"
        f"kvmctl.import_image({str(raw)!r}, roots=kvmctl.{roots!r}, on_progress=stop)"
    )
    done = subprocess.run([sys.executable, "-c", source], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -9
    assert kvmctl.list_images(roots) == []
    (left,) = files_under(roots.images)
    assert left.startswith("incoming/")
    assert [item.path for item in kvmctl.collect_images(dry_run=True, roots=roots)] == [f"{roots.images}/{left}"]
    add(roots, raw)
    assert files_under(roots.images) == ["names/acme.json", f"sha256/{digest_of(CONTENT)}"]


def test_what_is_on_its_way_in_is_left_alone(raw: Path, roots: Roots) -> None:
    found: list[object] = []
    add(roots, raw, on_progress=lambda _: found.extend(kvmctl.collect_images(roots=roots)))
    assert found == []
    assert len(kvmctl.list_images(roots)) == 1


@QEMU_IMG
def test_an_image_stays_while_the_disk_of_a_machine_is_an_overlay_of_it(raw: Path, roots: Roots) -> None:
    image = add(roots, raw)
    disk = overlay_of(roots, "acme")
    blob = f"{roots.images}/sha256/{image.digest}"
    assert qcow2.find_backing(disk) == blob
    assert [info.used_by for info in kvmctl.list_images(roots)] == [("web",)]
    assert kvmctl.remove_image("acme", roots=roots).kept_for == ("web",)
    assert kvmctl.collect_images(roots=roots) == []
    assert os.path.exists(blob)
    os.unlink(disk)
    assert [item.path for item in kvmctl.collect_images(roots=roots)] == [blob]
    assert files_under(roots.images) == []


@QEMU_IMG
def test_a_frozen_layer_or_an_ephemeral_disk_keeps_an_image_as_well(raw: Path, roots: Roots) -> None:
    image = add(roots, raw)
    disk = Path(overlay_of(roots, "acme"))
    for place in (
        f"{roots.state}/templates/t/disk0.qcow2",
        f"{roots.ephemeral}/web-1/disk0.qcow2",
        f"{roots.state}/machines/web/snapshots/s/disk0.qcow2",
    ):
        os.makedirs(os.path.dirname(place))
        disk = disk.rename(place)
        kvmctl.collect_images(roots=roots)
    kvmctl.remove_image("acme", roots=roots)
    assert kvmctl.collect_images(roots=roots) == []
    assert os.path.exists(f"{roots.images}/sha256/{image.digest}")


def test_an_image_that_a_qemu_has_open_stays_wherever_its_overlay_is(raw: Path, roots: Roots) -> None:
    image = add(roots, raw)
    blob = f"{roots.images}/sha256/{image.digest}"
    os.chmod(blob, 0o600)
    descriptor = os.open(blob, os.O_RDWR)
    try:
        assert ofd.try_lock(descriptor)
        assert kvmctl.remove_image("acme", roots=roots).kept_for == ("a running machine",)
        assert kvmctl.collect_images(roots=roots) == []
    finally:
        os.close(descriptor)
    assert len(kvmctl.collect_images(roots=roots)) == 1


@QEMU_IMG
def test_an_image_that_is_pulled_anew_stays_for_the_disks_that_began_as_it(raw: Path, roots: Roots) -> None:
    old = add(roots, raw)
    overlay_of(roots, "acme")
    raw.write_bytes(OTHER)
    new = add(roots, raw)
    assert kvmctl.collect_images(roots=roots) == []
    overlay_of(roots, "acme", machine="db")
    assert {path: len(uses) for path, uses in kvmctl_uses(roots).items()} == {old.digest: 1, new.digest: 1}


def kvmctl_uses(roots: Roots) -> dict[str, list[str]]:
    from kvmctl.image.uses import find_uses

    return {os.path.basename(path): uses for path, uses in find_uses(roots).items()}


@QEMU_IMG
def test_an_overlay_is_as_large_as_asked_for_and_never_smaller_than_its_image(raw: Path, roots: Roots) -> None:
    add(roots, raw)
    for wanted, size in ((1 << 30, 1 << 30), (None, len(CONTENT)), (512, len(CONTENT))):
        path = str(raw.with_name(f"{wanted}.qcow2"))
        step = CreateOverlay(path, roots.images, "acme", wanted, "disks[0].image")
        overlay.create(step, qemu="qemu-system-x86_64", catalogue=roots.catalogue)
        header = qcow2.read_header(path)
        assert header is not None
        assert header.size == size
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_missing_image_is_told_with_what_to_do(raw: Path, roots: Roots) -> None:
    step = CreateOverlay("/nowhere/disk.qcow2", roots.images, "debian-12", None, "disks[0].image")
    with pytest.raises(ImageMissing, match=r"disks\[0\].image: the image 'debian-12' is not in the store") as known:
        overlay.check(step, catalogue=roots.catalogue)
    assert known.value.is_known
    assert known.value.hint == "Get it: kvmctl image pull debian-12"
    add(roots, raw, name="debain-11")
    step = CreateOverlay("/nowhere/disk.qcow2", roots.images, "debain-12", None, "disks[0].image")
    with pytest.raises(ImageMissing, match="there is no image 'debain-12' in the store or the catalogue") as unknown:
        overlay.check(step, catalogue=roots.catalogue)
    assert not unknown.value.is_known
    assert "Did you mean 'debian-12' or 'debain-11'" in unknown.value.hint
    with pytest.raises(ImageMissing, match="there is no image 'acme' in the store"):
        kvmctl.remove_image("acme", roots=roots)


def test_a_record_that_is_damaged_hides_nothing_and_can_be_removed(raw: Path, roots: Roots) -> None:
    add(roots, raw)
    add(roots, raw, name="other")
    record = Path(roots.images, "names", "acme.json")
    for text in ("{", "[]", "{}", json.dumps(json.loads(record.read_text()) | {"digest": "../../etc"})):
        record.write_text(text)
        broken, whole = kvmctl.list_images(roots)
        assert (broken.name, broken.image, whole.name, whole.problem) == ("acme", None, "other", "")
        assert "is not a record of an image" in broken.problem
    with pytest.raises(StateError, match="is not a record of an image"):
        kvmctl.collect_images(roots=roots)  # what it stood for can't be told
    kvmctl.remove_image("acme", roots=roots)
    assert kvmctl.collect_images(roots=roots) == []


def test_an_image_whose_file_is_gone_is_listed_as_broken_and_healed_by_getting_it_again(
    raw: Path, roots: Roots
) -> None:
    image = add(roots, raw)
    blob = Path(roots.images, "sha256", image.digest)
    blob.unlink()
    assert [info.problem for info in kvmctl.list_images(roots)] == ["its file is gone"]
    step = CreateOverlay("/nowhere/disk.qcow2", roots.images, "acme", None, "disks[0].image")
    with pytest.raises(StateError, match="the file of the image 'acme' is gone"):
        overlay.check(step, catalogue=roots.catalogue)
    add(roots, raw)
    blob.chmod(0o600)
    blob.write_bytes(b"cut")
    add(roots, raw)
    assert blob.read_bytes() == CONTENT


@QEMU_IMG
def test_an_overlay_is_made_whole_or_not_at_all(raw: Path, roots: Roots) -> None:
    add(roots, raw)
    path = raw.with_name("gone") / "disk.qcow2"
    with pytest.raises(ImageError, match="cannot create the image"):
        qemuimg.create_overlay("qemu-img", str(path), backing=str(raw), backing_format="raw", size=1 << 20)
    assert not path.parent.exists()


@pytest.mark.qemu
@pytest.mark.parametrize(("has_cloud_init", "way"), [(None, "nocloud"), (True, "nocloud"), (False, "credentials")])
def test_a_machine_of_an_image_is_told_what_to_be_in_the_way_that_the_image_takes(
    roots: Roots, raw: Path, has_cloud_init: bool | None, way: str
) -> None:
    origin = Origin("here", has_cloud_init=has_cloud_init)
    Store(ImagePaths(roots.images)).add_file(str(raw), name="acme", image_format="raw", origin=origin)
    plan = kvmctl.prepare("acme", roots=roots).plan
    assert [step.first_boot.way for step in plan.steps if isinstance(step, TellGuest)] == [way]


@pytest.mark.qemu
def test_what_is_known_of_an_image_decides_what_its_guest_is_told(roots: Roots, raw: Path) -> None:
    origin = Origin("here", user="me", shell="/bin/ash", become="doas")
    Store(ImagePaths(roots.images)).add_file(str(raw), name="acme", image_format="raw", origin=origin)
    disk = '[[disks]]\nimage = "acme"\n'
    bob = kvmctl.parse(f'{disk}[[guest.users]]\nname = "bob"', source="/web.toml", base="/")
    (step,) = [step for step in kvmctl.prepare(bob, roots=roots).plan.steps if isinstance(step, TellGuest)]
    (user,) = step.first_boot.users
    assert (user.shell, user.become) == ("/bin/ash", "doas")
    raw_data = kvmctl.parse(f'{disk}[guest]\nuser_data = "x"', source="/web.toml", base="/")
    assert kvmctl.prepare(raw_data, roots=roots).plan.guest.user == "me"
