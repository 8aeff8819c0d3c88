"""The files that tell a guest what to be: private, kept, made anew when they are to say something else."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import kvmctl
from kvmctl.plan.guest import FirstBoot, GuestFile, GuestUser, MakeKeys, Source, TellGuest
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.firstboot import check_guest, shown, tell_guest
from kvmctl.runtime.made import Made, keep, unmake
from kvmctl.runtime.sshkeys import load_keys, make_keys

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtDDLIXxnAgmyhMF3YXbS3PcyVBYCmwJo4a+HVDUz3c me@here"
HASH = "$6$saltsalt$0123456789abcdef"
OWN = Source("own-keys", "", "guest.ssh_keys")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    (path / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(path))
    return path


def paths_in(directory: Path) -> MachinePaths:
    return MachinePaths("web", str(directory / "run"), str(directory / "state"))


@contextmanager
def starting(directory: Path) -> Iterator[Made]:
    """The record of a start that fails in the end, unless what it made is kept."""
    paths = paths_in(directory)
    os.makedirs(paths.run, exist_ok=True)
    yield Made(paths)
    unmake(paths, was_held=True)


@pytest.fixture
def step(tmp_path: Path, home: Path) -> TellGuest:
    recipe = FirstBoot("nocloud", "one", "web", users=(GuestUser("bob", (OWN,)),))
    directory = str(tmp_path / "state" / "ssh")
    with starting(tmp_path) as made:
        make_keys(MakeKeys(directory, "kvmctl-web", "guest"), made)
        keep(paths_in(tmp_path))
    return TellGuest(recipe, str(tmp_path / "state/guest"), directory, str(tmp_path / "web.toml"), "guest")


def saying(step: TellGuest, **changes: Any) -> TellGuest:
    return step._replace(first_boot=step.first_boot._replace(**changes))


def tell(step: TellGuest) -> None:
    home = Path(step.directory).parent.parent
    with starting(home) as made:
        tell_guest(step, made)
        keep(paths_in(home))


def with_password(step: TellGuest, source: Source, *, is_hash: bool = True) -> TellGuest:
    return saying(step, users=(GuestUser("bob", (OWN,), password=source, password_is_hash=is_hash),))


def extracted(step: TellGuest, tmp_path: Path) -> dict[str, str]:
    """The files of the seed, as xorriso reads them."""
    out = tmp_path / "extracted"
    argv = ["xorriso", "-no_rc", "-osirrox", "on", "-indev", f"{step.directory}/seed.iso", "-extract", "/", str(out)]
    subprocess.run(argv, check=True, capture_output=True)
    return {path.name: path.read_text() for path in out.iterdir()}


def problems(step: TellGuest) -> list[str]:
    with pytest.raises(kvmctl.SpecError) as caught:
        tell(step)
    assert not os.path.exists(step.directory)
    with pytest.raises(kvmctl.SpecError) as checked:
        check_guest(step)
    assert checked.value.problems == caught.value.problems
    return [str(problem) for problem in caught.value.problems]


def modes(directory: str) -> set[int]:
    return {stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode) for name in os.listdir(directory)}


def test_keys_are_made_once_and_are_nobody_elses(step: TellGuest, tmp_path: Path) -> None:
    before = load_keys(step.ssh)
    with starting(tmp_path) as made:
        make_keys(MakeKeys(step.ssh, "kvmctl-web", "guest"), made)
    assert load_keys(step.ssh) == before, "undoing a start that made no keys took them away"
    assert modes(step.ssh) == {0o600}
    assert stat.S_IMODE(os.stat(step.ssh).st_mode) == 0o700


def test_the_guests_key_is_known_before_it_boots(step: TellGuest) -> None:
    known = Path(step.ssh, "known_hosts")
    keys = load_keys(step.ssh)
    assert known.read_text() == f"kvmctl-web {keys.host_public.rsplit(maxsplit=1)[0]}\n"
    found = subprocess.run(
        ["ssh-keygen", "-F", "kvmctl-web", "-f", str(known)], capture_output=True, text=True, check=True
    )
    assert keys.host_public.split()[1] in found.stdout


def test_a_public_key_that_was_lost_comes_back(step: TellGuest, tmp_path: Path) -> None:
    before = load_keys(step.ssh)
    os.unlink(f"{step.ssh}/host_ed25519.pub")
    with starting(tmp_path) as made:
        make_keys(MakeKeys(step.ssh, "kvmctl-web", "guest"), made)
    assert load_keys(step.ssh).host_public.split()[:2] == before.host_public.split()[:2]


def test_what_a_killed_start_left_of_keys_is_cleared_away(step: TellGuest, tmp_path: Path) -> None:
    for name in ("id_ed25519.77.part", "id_ed25519.77.part.pub"):
        Path(step.ssh, name).write_text("half")
    with starting(tmp_path) as made:
        make_keys(MakeKeys(step.ssh, "kvmctl-web", "guest"), made)
    assert not [name for name in os.listdir(step.ssh) if "part" in name]


def test_keys_made_for_a_start_that_failed_go_with_it(tmp_path: Path) -> None:
    directory = tmp_path / "some/ssh"
    with starting(tmp_path) as made:
        make_keys(MakeKeys(str(directory), "kvmctl-web", "guest"), made)
        assert directory.exists()
    assert not (tmp_path / "some").exists()


def test_without_ssh_keygen_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with starting(tmp_path) as made, pytest.raises(kvmctl.HostError, match="ssh-keygen was not found") as caught:
        make_keys(MakeKeys(str(tmp_path / "ssh"), "kvmctl-web", "guest"), made)
    assert "openssh-client" in caught.value.hint
    assert not (tmp_path / "ssh").exists()


def test_the_seed_holds_ones_own_keys(step: TellGuest, home: Path, tmp_path: Path) -> None:
    (home / ".ssh/id.pub").write_text(f"{KEY}\n")
    (home / ".ssh/id-cert.pub").write_text(KEY.replace("me@here", "cert"))
    (home / ".ssh/broken.pub").write_text("what\n")
    tell(step)
    (user,) = json.loads(extracted(step, tmp_path)["user-data"].partition("\n")[2])["users"]
    assert user["ssh_authorized_keys"] == [load_keys(step.ssh).client_public, KEY]
    assert modes(step.directory) == {0o600}


def test_a_user_without_keys_is_still_reached_by_kvmctl(step: TellGuest) -> None:
    assert load_keys(step.ssh).client_public in shown(step)["user-data"].decode()


def test_what_says_the_same_is_not_made_again(step: TellGuest) -> None:
    tell(step)
    before = os.stat(f"{step.directory}/seed.iso")
    tell(step)
    after = os.stat(f"{step.directory}/seed.iso")
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_what_says_something_else_is_made_again(step: TellGuest, tmp_path: Path) -> None:
    tell(step)
    tell(saying(step, run=(("true",),)))
    assert '"try true"' in extracted(step, tmp_path)["user-data"]


def test_a_seed_that_was_lost_is_made_again(step: TellGuest) -> None:
    tell(step)
    os.unlink(f"{step.directory}/seed.iso")
    tell(step)
    assert os.path.exists(f"{step.directory}/seed.iso")


def test_what_was_made_for_a_start_that_failed_goes_with_it(step: TellGuest, tmp_path: Path) -> None:
    with starting(tmp_path) as made:
        tell_guest(step, made)
        assert os.path.exists(f"{step.directory}/seed.iso")
    assert not os.path.exists(step.directory)


def test_a_later_start_that_fails_leaves_what_the_guest_was_told(step: TellGuest, tmp_path: Path) -> None:
    tell(step)
    with starting(tmp_path) as made:
        tell_guest(saying(step, run=(("true",),)), made)
    assert os.path.exists(f"{step.directory}/seed.iso")


def test_another_way_leaves_no_secret_of_the_first(step: TellGuest) -> None:
    tell(saying(step, way="credentials"))
    assert sorted(os.listdir(step.directory)) == ["digest", "kvmctl.first-boot", "sysusers.extra", "tmpfiles.extra"]
    assert modes(step.directory) == {0o600}
    tell(step)
    assert sorted(os.listdir(step.directory)) == ["digest", "seed.iso"]


def test_a_secret_is_needed_once(step: TellGuest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = with_password(step, Source("env", "BOBS_HASH", "guest.users[0].password_hash.env"))
    monkeypatch.setenv("BOBS_HASH", HASH)
    tell(secret)
    monkeypatch.delenv("BOBS_HASH")
    tell(secret)
    assert HASH in extracted(step, tmp_path)["user-data"]
    with pytest.raises(kvmctl.HostError, match="'BOBS_HASH' is not set"):
        tell(saying(secret, way="credentials"))  # which it never was told by


def test_a_variable_that_is_not_set_is_named(step: TellGuest) -> None:
    secret = with_password(step, Source("env", "BOBS_HASH", "guest.users[0].password_hash.env"))
    for act in (tell, check_guest):
        with pytest.raises(kvmctl.HostError, match="the environment variable 'BOBS_HASH' is not set"):
            act(secret)
    assert not os.path.exists(step.directory)


def test_a_hash_in_the_spec_is_read_from_the_spec(step: TellGuest, tmp_path: Path) -> None:
    Path(step.source).write_text(f"[[guest.users]]\nname = 'bob'\npassword_hash = '{HASH}'\n")
    tell(with_password(step, Source("spec", "", "guest.users[0].password_hash")))
    assert HASH in extracted(step, tmp_path)["user-data"]


def test_a_spec_that_is_no_file_can_hold_no_hash(step: TellGuest) -> None:
    (problem,) = problems(with_password(step, Source("spec", "", "guest.users[0].password_hash")))
    assert problem == (
        "guest.users[0].password_hash: is in no file that could be read again; give it by file = ... or env = ..."
    )


def test_what_is_shown_hides_secrets(step: TellGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOBS_PASSWORD", "hunter2")
    secret = with_password(step, Source("env", "BOBS_PASSWORD", "k"), is_hash=False)
    private = load_keys(step.ssh).host_private.splitlines()[1]
    for way in ("nocloud", "credentials"):
        text = b"".join(shown(saying(secret, way=way)).values()).decode()
        assert "hunter2" not in text
        assert private not in text
        assert "(hidden)" in text
    monkeypatch.delenv("BOBS_PASSWORD")
    assert shown(secret)


def test_everything_wrong_is_said_at_once(step: TellGuest, tmp_path: Path) -> None:
    private, text, yaml = (tmp_path / name for name in ("id", "text", "user.yaml"))
    private.write_text(Path(step.ssh, "id_ed25519").read_text())
    text.write_text("not a key\n")
    yaml.write_text("#cloud-config\nusers:\n- name: [bob\n")
    keys = tuple(
        Source("file", str(path), f"guest.ssh_keys[{index}]")
        for index, path in enumerate((private, text, tmp_path / "none.pub", tmp_path))
    )
    found = problems(
        saying(
            step,
            users=(GuestUser("bob", keys),),
            files=(GuestFile("/a", Source("file", "/dev/zero", "guest.files[0].source"), "0644", "root:root"),),
            vendor_data=Source("file", str(yaml), "guest.vendor_data"),
        )
    )
    expected = "expected ',' or ']', but got '<stream end>'"
    allowed = "the one line of a file that ends in .pub, like 'ssh-ed25519 AAAA... me@here'"
    assert found == [
        f"guest.ssh_keys[0]: is a private key, which no guest may ever see (given '{private}'); {allowed}",
        f"guest.ssh_keys[1]: is not a public key (given '{text}'); {allowed}",
        f"guest.ssh_keys[2]: there is no such file (given '{tmp_path}/none.pub')",
        f"guest.ssh_keys[3]: can't be read: Is a directory (given '{tmp_path}')",
        "guest.files[0].source: has more than 64MiB, which no guest is told (given '/dev/zero')",
        f"guest.vendor_data: is not YAML at line 4, column 1: {expected} (given '{yaml}')",
    ]


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("user_data", "hello: 1\n", "begins with 'hello: 1', by which cloud-init can't tell what it is; '#cloud-co"),
        ("user_data", "#cloud-config\n- a\n", "is YAML, but no table of keys"),
        ("user_data", "#cloud-config\na: 1\n\tb: 2\n", "is not YAML at line 3, column 1: found character '\\t'"),
        ("network_config", "version: 2\nethernets: {\n", "is not YAML at line 3, column 1: "),
        ("network_config", "", "is YAML, but no table of keys"),
        ("network_config", "a: \x01", "is not YAML: unacceptable character"),
        ("vendor_data", "\udcff", "is not UTF-8 text (byte 0)"),
    ],
)
def test_a_file_that_cloud_init_could_not_read_is_refused(
    step: TellGuest, tmp_path: Path, key: str, text: str, message: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(text.encode(errors="surrogateescape"))
    (problem,) = problems(saying(step, **{key: Source("file", str(path), f"guest.{key}")}))
    assert problem.startswith(f"guest.{key}: {message}")


@pytest.mark.parametrize("data", [b"#!/bin/sh\n: [\n", b"#cloud-config\n", b"## template: jinja\n{{", b"\x1f\x8b\0"])
def test_what_only_cloud_init_can_judge_is_left_to_it(step: TellGuest, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    tell(saying(step, user_data=Source("file", str(tmp_path / "file"), "guest.user_data")))


@pytest.mark.parametrize(
    ("text", "is_hash", "message"),
    [
        ("", False, "is no password: one line is, and not an empty one"),
        ("a\nb", False, "is no password: one line is, and not an empty one"),
        ("hunter2", True, "holds no hash of a password; what 'openssl passwd -6' prints"),
        ("\udcff", False, "is a password that is not UTF-8"),
    ],
)
def test_a_wrong_password_is_refused_and_not_shown(
    step: TellGuest, tmp_path: Path, text: str, is_hash: bool, message: str
) -> None:
    (tmp_path / "secret").write_bytes(text.encode(errors="surrogateescape"))
    source = Source("file", str(tmp_path / "secret"), "guest.users[0].password.file")
    assert problems(with_password(step, source, is_hash=is_hash)) == [f"guest.users[0].password.file: {message}"]


def test_more_than_systemd_takes_is_refused(step: TellGuest, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(800_000))
    file = GuestFile("/big", Source("file", str(tmp_path / "big"), "guest.files[0].source"), "0644", "root:root")
    (problem,) = problems(saying(step, way="credentials", files=(file,)))
    assert "systemd takes a MiB of credentials in all; smaller files, or a guest with cloud-init" in problem
    tell(saying(step, files=(file,)))


def test_a_directory_that_cannot_be_written_is_said(step: TellGuest) -> None:
    Path(step.directory).write_text("in the way")
    with pytest.raises(kvmctl.StateError, match="is in the way"):
        tell(step)


KILLED_AT_EVERY_STEP = """
import os, shutil, sys
from itertools import count
from kvmctl.plan.guest import FirstBoot, GuestUser, MakeKeys, Source, TellGuest
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.made import Made, keep
from kvmctl.runtime import cloudconfig, firstboot, sshkeys
from kvmctl.image import seed

state = sys.argv[1]
ssh, guest = f"{state}/ssh", f"{state}/guest"
recipe = FirstBoot(sys.argv[2], "one", "web", users=(GuestUser("bob", (Source("own-keys", "", "k"),)),))

def tell(step):
    if step:
        seen = count(1)
        sys.addaudithook(lambda event, args: os.kill(os.getpid(), 9) if next(seen) == step else None)
    paths = MachinePaths("web", f"{state}/run", state)
    os.makedirs(paths.run, exist_ok=True)
    sshkeys.make_keys(MakeKeys(ssh, "kvmctl-web", "guest"), Made(paths))
    firstboot.tell_guest(TellGuest(recipe, guest, ssh, "web.toml", "guest"), Made(paths))
    keep(paths)

def told(step):
    child = os.fork()
    if child == 0:
        tell(step)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0

told(0)
def there():
    # An ssh-keygen whose parent was killed goes on, and what it leaves is cleared away by the start after the next.
    return {path: sorted(name for name in os.listdir(path) if ".part" not in name) for path in (ssh, guest)}

whole = there()
shutil.rmtree(state)
for step in count(1):
    if told(step):
        break
    assert told(0), step
    assert there() == whole, (step, there())
    keys = sshkeys.load_keys(ssh)
    assert keys.host_public.split()[1] in open(f"{ssh}/known_hosts").read(), step
    derived = sshkeys._keygen("-y", "-P", "", "-f", f"{ssh}/host_ed25519")
    assert derived.split()[1] == keys.host_public.split()[1], step
    shutil.rmtree(state, ignore_errors=True)
print(step)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["nocloud", "credentials"])
def test_a_start_that_is_killed_anywhere_is_made_good_by_the_next(tmp_path: Path, home: Path, way: str) -> None:
    argv = [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(tmp_path / "state"), way]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30
