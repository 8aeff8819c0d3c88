"""Images on the command line: pulled and imported, run by name on a real QEMU, and removed when nothing needs them."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from signal import SIGINT

import psutil
import pytest
from image.publisher import Publisher, publishing

from kvmctl.guest import tiny
from kvmctl.image import qcow2

from .conftest import PATIENCE, PROGRAM, Kvmctl

BOOTABLE = Path(tiny.IMAGE).read_bytes().ljust(2 << 20, b"\0")
"""A disk that boots: the tiny guest, and room for what it writes."""


@pytest.fixture
def kvmctl(kvmctl: Kvmctl, tmp_path: Path) -> Kvmctl:
    """The command line of a user without downloads or proxies, who has a file that is a bootable disk."""
    kvmctl.environment = {name: value for name, value in kvmctl.environment.items() if "_proxy" not in name.lower()}
    (tmp_path / "disk.raw").write_bytes(BOOTABLE)
    return kvmctl


@pytest.fixture
def cached(kvmctl: Kvmctl, tmp_path: Path) -> Kvmctl:
    """The same with a cache of its own, for tests that look into it."""
    kvmctl.environment["KVMCTL_CACHE_DIR"] = str(tmp_path / "cache")
    return kvmctl


@pytest.fixture
def publisher(kvmctl: Kvmctl) -> Iterator[Publisher]:
    """A publisher whose image ``acme`` is in the user's catalogue, and boots."""
    with publishing() as ours:
        ours.put("/acme.raw", BOOTABLE)
        ours.put("/SHA256SUMS", f"{sha256(BOOTABLE).hexdigest()}  acme.raw\n".encode())
        config = kvmctl.directory / "config"
        config.mkdir()
        (config / "images.toml").write_text(
            f'[acme]\nurl = "{ours.url}/acme.raw"\nchecksums = "SHA256SUMS"\nformat = "raw"\nuser = "me"\n'
        )
        yield ours


def images(kvmctl: Kvmctl) -> list[str]:
    return kvmctl.ok("image", "list", "--quiet").split()


def boots(kvmctl: Kvmctl, name: str) -> str:
    """What the tiny guest says of how often its disk was booted."""
    kvmctl.ok("wait", name, "--for", "console:^READY", "--timeout", "30")
    return next(word for word in kvmctl.ok("logs", name).split() if word.startswith("boots="))


def run_and_switch_off(kvmctl: Kvmctl) -> tuple[str, str]:
    """What ``kvmctl run acme`` prints, the guest told to power off once it listens."""
    with kvmctl.popen("run", "acme", "--name", "web") as process:
        shown = ""
        assert process.stdout is not None
        while "READY" not in shown:
            shown += process.stdout.readline()
        rest, talk = process.communicate("q", timeout=PATIENCE)
    assert process.returncode == 0, talk
    return shown + rest, talk


def test_a_pull_says_what_it_did_on_stderr_and_the_name_on_stdout(publisher: Publisher, kvmctl: Kvmctl) -> None:
    done = kvmctl("image", "pull", "acme")
    assert (done.returncode, done.stdout) == (0, "acme\n")
    assert done.stderr == "acme: downloading 2 MiB\nacme: pulled (2 MiB, a disk of 2 MiB, checked against sha256)\n"
    again = kvmctl("image", "pull", "acme")
    assert again.stderr == "acme: up to date (2 MiB, a disk of 2 MiB, checked against sha256)\n"
    (record,) = json.loads(kvmctl.ok("image", "list", "--json"))["images"]
    assert record["digest"] == record["checked_against"] == f"sha256:{sha256(BOOTABLE).hexdigest()}"
    assert (record["disk_bytes"], record["user"], record["used_by"], record["problem"]) == (2 << 20, "me", [], None)


def test_a_terminal_is_shown_a_bar_that_is_gone_in_the_end(publisher: Publisher, kvmctl: Kvmctl) -> None:
    leader, follower = os.openpty()
    try:
        done = subprocess.run(
            [*PROGRAM, "image", "pull", "acme"],
            env=kvmctl.environment | {"TERM": "xterm", "CI": "", "NO_COLOR": ""},
            stdout=subprocess.PIPE,
            stderr=follower,
            check=True,
            timeout=PATIENCE,
        )
        talk = os.read(leader, 65536).decode()
    finally:
        os.close(leader)
        os.close(follower)
    assert done.stdout == b"acme\n"
    assert "[########################] 100%  2 MiB of 2 MiB" in talk
    assert talk.rpartition("\x1b[K")[2].startswith("acme: pulled (2 MiB")


def test_a_pull_that_is_interrupted_keeps_its_beginning_and_nothing_else(publisher: Publisher, cached: Kvmctl) -> None:
    publisher.change("/acme.raw", hold_after=1 << 20)
    with cached.popen("image", "pull", "acme") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "acme: downloading 2 MiB\n"
        process.send_signal(SIGINT)
        _, talk = process.communicate(timeout=PATIENCE)
    assert (process.returncode, talk) == (130, "")
    assert images(cached) == []
    names = sorted(path.suffix for path in (cached.directory / "cache/downloads").iterdir())
    assert names == [".json", ".part"]


def test_an_address_is_pulled_under_a_name_and_said_to_be_unchecked(publisher: Publisher, kvmctl: Kvmctl) -> None:
    done = kvmctl("image", "pull", f"{publisher.url}/acme.raw", "--name", "mine")
    assert (done.returncode, done.stdout) == (0, "mine\n")
    assert "unchecked: nothing vouches for it" in done.stderr
    digest = f"sha256:{'0' * 64}"
    wrong = kvmctl("image", "pull", f"{publisher.url}/acme.raw", "--name", "other", "--digest", digest)
    assert wrong.returncode == 18
    assert f"expected {digest}" in wrong.stderr
    assert images(kvmctl) == ["mine"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("pull", "debain-12"), 4),
        (("pull", "acme", "--digest", "sha256:00"), 2),
        (("pull", "acme", "other", "--name", "mine"), 2),
        (("import", "gone.raw"), 4),
        (("import", "disk.raw", "--format", "qcow2"), 13),
        (("import", "disk.raw", "--format", "vdi"), 2),
        (("rm", "gone"), 4),
        (("build", "debian", "a name"), 13),
        (("build", "debian", "mine", "--package", "no_package"), 13),
        (("build", "debian", "mine", "--size", "100MiB"), 13),
        (("build", "debian", "mine", "--size", "tiny"), 2),
        (("build", "acme", "mine"), 2),
    ],
)
def test_each_mistake_has_its_exit_code(kvmctl: Kvmctl, words: tuple[str, ...], code: int) -> None:
    done = kvmctl("image", *words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert images(kvmctl) == []


@pytest.mark.debian
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="this is neither Debian nor Ubuntu")
def test_a_build_that_is_interrupted_leaves_nothing(cached: Kvmctl) -> None:
    building = cached.popen("image", "build", "debian", "mine", "--no-cloud-init")
    assert building.stderr is not None
    said = []
    for line in building.stderr:
        said.append(line)
        if line.startswith("5 of 8"):
            break
    else:
        pytest.skip(f"no packages here: {''.join(said)[-500:]}")
    assert said == [
        "1 of 8: Getting the tools\n",
        "2 of 8: Getting the lists of packages\n",
        "3 of 8: Getting the packages\n",
        "4 of 8: Unpacking the essential packages\n",
        "5 of 8: Installing the essential packages\n",
    ]
    building.send_signal(SIGINT)
    assert (building.communicate(timeout=PATIENCE)[0], building.returncode) == ("", 130)
    builds = cached.directory / "cache/builds"
    assert os.listdir(builds) == []
    assert images(cached) == []
    words = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in words if str(builds) in line]


def test_what_can_be_had_is_listed_with_what_is_here(publisher: Publisher, kvmctl: Kvmctl) -> None:
    kvmctl.ok("image", "pull", "acme")
    entries = json.loads(kvmctl.ok("image", "list", "--available", "--json"))["images"]
    here = {entry["name"]: entry["here"] for entry in entries}
    assert here["acme"]
    assert not here["debian-12"]
    assert "debian-12" in kvmctl.ok("image", "list", "--available", "--quiet").split()
    assert "Debian 12 (bookworm)" in kvmctl.ok("image", "list", "--available")


def test_a_broken_catalogue_is_told_and_in_nobodys_way_who_does_not_need_it(kvmctl: Kvmctl) -> None:
    kvmctl.ok("image", "import", "disk.raw")
    (kvmctl.directory / "config").mkdir()
    (kvmctl.directory / "config/images.toml").write_text("[")
    assert kvmctl("image", "pull", "debian-12").returncode == 14
    assert images(kvmctl) == ["disk"]
    kvmctl.ok("argv", "disk")


@pytest.mark.qemu
def test_an_image_is_a_machine_by_its_name_and_its_disk_is_kept(kvmctl: Kvmctl) -> None:
    kvmctl.ok("image", "import", "disk.raw", "--name", "tiny-disk")
    assert kvmctl.ok("start", "tiny-disk") == "tiny-disk\n"
    assert boots(kvmctl, "tiny-disk") == "boots=1"
    disk = kvmctl.directory / "state/machines/tiny-disk/disks/disk0.tiny-disk.qcow2"
    header = qcow2.read_header(str(disk))
    assert header is not None
    assert header.size == 10 << 30
    assert header.backing == str(kvmctl.directory / "state/images/sha256" / sha256(BOOTABLE).hexdigest())
    assert json.loads(kvmctl.ok("image", "list", "--json"))["images"][0]["used_by"] == ["tiny-disk"]
    kvmctl.ok("kill", "tiny-disk")
    kvmctl.ok("start", "tiny-disk")
    assert boots(kvmctl, "tiny-disk") == "boots=2"
    # The name goes, and what the disk lies over stays.
    assert "stays for tiny-disk" in kvmctl("image", "rm", "tiny-disk").stderr
    assert kvmctl.ok("image", "gc") == ""
    kvmctl.ok("kill", "tiny-disk")
    lost = kvmctl("start", "tiny-disk")
    assert lost.returncode == 4
    assert "Start it: kvmctl start image:tiny-disk" in lost.stderr
    kvmctl.ok("start", "image:tiny-disk")
    assert boots(kvmctl, "tiny-disk") == "boots=3"
    kvmctl.ok("kill", "tiny-disk")
    kvmctl.ok("rm", "tiny-disk", "--yes")
    assert len(kvmctl.ok("image", "gc").splitlines()) == 1
    assert list((kvmctl.directory / "state/images/sha256").iterdir()) == []
    assert Path(kvmctl.directory, "disk.raw").read_bytes() == BOOTABLE


@pytest.mark.qemu
def test_an_image_is_shown_as_such_beside_a_machine_that_has_its_name(kvmctl: Kvmctl) -> None:
    kvmctl.ok("image", "import", "disk.raw")
    told = kvmctl.ok("show", "image:disk", "--guest")
    assert '"local-hostname": "disk"' in told
    assert kvmctl.ok("show", "disk", "--guest") == told
    (kvmctl.directory / "disk.toml").write_text("[guest]\nhostname = 'other'\n")
    kvmctl.ok("define", "disk.toml")
    kvmctl.ok("start", "disk")
    assert '"local-hostname": "other"' in kvmctl.ok("show", "disk", "--guest")
    assert '"local-hostname": "disk"' in kvmctl.ok("show", "image:disk", "--guest")
    another = kvmctl("show", "image:disk")
    assert another.returncode == 4
    assert "hint: Start it: kvmctl start image:disk" in another.stderr
    kvmctl.ok("kill", "disk")
    kvmctl.ok("rm", "disk", "--yes")
    kvmctl.ok("start", "image:disk")
    assert kvmctl.ok("show", "image:disk", "--json") == kvmctl.ok("show", "disk", "--json")
    kvmctl.ok("kill", "disk")


@pytest.mark.qemu
def test_run_pulls_an_image_that_is_missing_and_leaves_nothing_but_it(publisher: Publisher, kvmctl: Kvmctl) -> None:
    shown, talk = run_and_switch_off(kvmctl)
    assert "boots=1" in shown
    assert "web runs; Ctrl-] ends it, and kvmctl ssh web logs in beside\n" in talk
    assert "acme is not in the store yet" in talk
    assert "acme: pulled" in talk
    assert images(kvmctl) == ["acme"]
    assert list((kvmctl.directory / "state/ephemeral").iterdir()) == []
    assert not (kvmctl.directory / "state/machines").exists()
    shown, _ = run_and_switch_off(kvmctl)
    assert "boots=1" in shown  # what the first wrote was its own
    assert publisher.gets("/acme.raw") == [None]


@pytest.mark.qemu
def test_a_machine_is_created_of_an_image_and_starts_at_once(publisher: Publisher, kvmctl: Kvmctl) -> None:
    assert kvmctl.ok("create", "web", "--image", "acme", "--size", "20GiB", "--start").splitlines()[-1] == "web"
    assert boots(kvmctl, "web") == "boots=1"
    header = qcow2.read_header(str(kvmctl.directory / "state/machines/web/disks/disk0.acme.qcow2"))
    assert header is not None
    assert header.size == 20 << 30
    kvmctl.ok("kill", "web")
    kvmctl.ok("start", "web")  # its machine type is pinned by now, which makes another plan
    kvmctl.ok("kill", "web")
    again = kvmctl.modules("start", "web")
    kvmctl.ok("kill", "web")
    assert not again & {"kvmctl.image.store", "kvmctl.image.pull", "kvmctl.cli.pulling"}
    assert not again & {"http.client", "ssl"}


@pytest.mark.qemu
def test_one_can_log_in_to_a_machine_that_is_created_of_an_image(kvmctl: Kvmctl) -> None:
    kvmctl.ok("image", "import", "disk.raw")
    kvmctl.ok("create", "web", "--image", "disk", "--start")
    plan = json.loads(kvmctl.ok("show", "web", "--json"))["plan"]
    assert plan["guest"]["user"] == getpass.getuser()
    assert [disk["id"] for disk in plan["disks"]] == ["disk0", "seed"]
    assert (kvmctl.directory / "state/machines/web/ssh/id_ed25519").exists()
    kvmctl.ok("kill", "web")
    kvmctl.ok("create", "other", "--disk", "1GiB")
    assert "guest" not in (kvmctl.directory / "config/machines/other.toml").read_text()


@pytest.mark.qemu
def test_a_start_that_fails_leaves_no_overlay(kvmctl: Kvmctl) -> None:
    kvmctl.ok("image", "import", "disk.raw")
    spec = kvmctl.directory / "web.toml"
    spec.write_text('disks = [{ image = "disk" }]\nextra_args = ["-no-such-option"]\n')
    assert kvmctl("start", "./web.toml").returncode == 9
    assert not (kvmctl.directory / "state/machines").exists()
    spec.write_text('disks = [{ image = "disk" }]\n')
    kvmctl.ok("start", "./web.toml")
    kvmctl.ok("kill", "web")


@pytest.mark.qemu
def test_another_image_in_the_spec_is_another_disk(kvmctl: Kvmctl) -> None:
    kvmctl.ok("image", "import", "disk.raw", "--name", "one")
    kvmctl.ok("image", "import", "disk.raw", "--name", "two")
    spec = kvmctl.directory / "web.toml"
    for image, count in (("one", 1), ("one", 2), ("two", 1), ("one", 3)):
        spec.write_text(f'disks = [{{ image = "{image}" }}]\n')
        kvmctl.ok("start", "./web.toml")
        assert boots(kvmctl, "web") == f"boots={count}"
        kvmctl.ok("kill", "web")


@pytest.mark.qemu
def test_a_machine_whose_image_is_missing_can_be_looked_at_and_not_started(kvmctl: Kvmctl) -> None:
    spec = kvmctl.directory / "web.toml"
    spec.write_text('disks = [{ image = "gone" }]\n')
    told = kvmctl("validate", "./web.toml")
    assert (told.returncode, told.stdout) == (0, "./web.toml: no problems\n")
    assert "disks[0].image: there is no image 'gone' in the store or the catalogue" in told.stderr
    argv = kvmctl("argv", "./web.toml")
    assert argv.returncode == 0
    assert "disks/disk0.gone.qcow2" in argv.stdout
    assert "there is no image 'gone'" in argv.stderr
    started = kvmctl("start", "./web.toml")
    assert started.returncode == 4
    assert "there is no image 'gone'" in started.stderr
    assert not (kvmctl.directory / "state").exists()
    spec.write_text('disks = [{ image = "debian-12" }]\n')
    assert "hint: Get it: kvmctl image pull debian-12" in kvmctl("argv", "./web.toml").stderr


@pytest.mark.qemu
def test_the_script_of_a_machine_makes_its_overlay_as_kvmctl_does(kvmctl: Kvmctl) -> None:
    kvmctl.ok("image", "import", "disk.raw", "--name", "one")
    spec = 'disks = [{ image = "one", size = "1GiB" }, { image = "one", id = "b" }]'
    (kvmctl.directory / "web.toml").write_text(spec)
    lines = kvmctl.ok("argv", "./web.toml", "--shell").splitlines()
    making = "\n".join(line for line in lines if "qemu-img" in line or line.startswith("mkdir"))
    subprocess.run(["sh", "-euc", making], check=True)
    for name, size in (("disk0", 1 << 30), ("b", 2 << 20)):
        header = qcow2.read_header(str(kvmctl.directory / f"state/machines/web/disks/{name}.one.qcow2"))
        assert header is not None
        assert header.size == size
        assert header.backing == str(kvmctl.directory / "state/images/sha256" / sha256(BOOTABLE).hexdigest())


UNSHARED = ("unshare", "--user", "--map-root-user", "--mount")
FULL_DISK = """
python=$1 directory=$2 url=$3
kvmctl() { "$python" -m kvmctl "$@"; }
for place in cache state; do
    mkdir -p "$directory/$place" && mount -t tmpfs -o size=1500k,mode=700 none "$directory/$place" || exit 99
done
for words in 'image pull acme' "image pull $url/unknown.raw" 'image import noise.raw'; do
    kvmctl $words
    echo "$?"
    kvmctl image list --quiet
    kvmctl image gc 2>/dev/null >&2
done
find "$directory/state" "$directory/cache" -type f ! -name lock
umount "$directory/state"
mount -t tmpfs -o size=10m,mode=700 none "$directory/state"
kvmctl image import disk.raw
kvmctl start disk
echo "$?"
find "$directory/state/machines"
"""


@pytest.mark.qemu
def test_a_full_disk_is_told_with_numbers_and_leaves_nothing(publisher: Publisher, cached: Kvmctl) -> None:
    noise = os.urandom(2 << 20)  # unlike zeroes it takes the space that it has
    publisher.put("/unknown.raw", noise, has_length=False)
    (cached.directory / "noise.raw").write_bytes(noise)
    done = subprocess.run(
        [*UNSHARED, "sh", "-c", FULL_DISK, "sh", sys.executable, str(cached.directory), publisher.url],
        env=cached.environment,
        cwd=cached.directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    if done.returncode == 99 or "unshare:" in done.stderr:
        pytest.skip("this host allows no mounts in a user namespace")
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines() == ["14", "14", "14", "disk", "14"], done.stderr
    assert "no space for the image 'acme': 2.0 MiB are needed in" in done.stderr
    assert "and 1.5 MiB are free" in done.stderr
    assert done.stderr.count("No space left on device") == 2  # of unknown length, it could only be tried
    assert "disks[0].image: no space for the overlay of 'disk'" in done.stderr
    assert "free, and the disk may grow to 10240.0 MiB" in done.stderr
