"""A Debian that is told what to be does it, whichever way it is told: by cloud-init, or by systemd alone.

The second has no cloud-init: it is an image that the command line has built, and so it is told by credentials.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from cli.conftest import Kvmctl, command_line_of

from kvmctl.host.virtiofsd import probe_virtiofsd

from .repository import repository

HASH = "$6$saltsalt$" + "a" * 86
PASSWORD = "it's 100% $ecret"
PACKAGE: Final = "kvmctl-test"
FIRST_BOOT: Final = {"nocloud": "cloud-init", "credentials": "unit:kvmctl-first-boot"}
"""What is waited for, by how the guest is told."""
PATIENCE = 600
"""Seconds: a first boot with cloud-init takes 40 without KVM, and five times as long where others use the CPUs too."""

pytestmark = [
    pytest.mark.debian,
    pytest.mark.slow,
    pytest.mark.timeout(4 * PATIENCE),
    pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh: install openssh-client"),
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="there is no dpkg-deb"),
    pytest.mark.skipif(
        not probe_virtiofsd(env=os.environ, cache=None).works, reason="this host has no virtiofsd that works"
    ),
]


@dataclass(frozen=True)
class Debian:
    """A Debian that is told by `way`, as machine ``web`` of a command line of its own."""

    way: str
    kvmctl: Kvmctl
    mirror: int
    """The port of a repository with one package, on the host's loopback: where the guest finds it is 10.0.2.2."""

    @property
    def shared(self) -> Path:
        return self.kvmctl.directory / "shared"

    def start(self, *more: str, run: str = "echo ran >>/var/tmp/ran") -> None:
        """Start it with its spec, and `more` lines of its table ``guest``."""
        (self.kvmctl.directory / "password").write_text(f"{PASSWORD}\n")
        self.shared.mkdir(exist_ok=True)
        path = self.kvmctl.directory / "web.toml"
        extra = "\n".join(more)
        path.write_text(f"""
            memory = "1GiB"
            cpus = 2
            accel = "tcg"
            [[disks]]
            image = "debian"
            size = "5GiB"
            [[networks]]
            type = "user"
            [[networks]]
            type = "none"
            [[shares]]
            path = "shared"
            mount = "/mnt/my share"
            driver = "virtiofs"
            [guest]
            hostname = "web-one"
            autologin = true
            timezone = "Europe/Berlin"
            locale = "POSIX"
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
            name = "eve"
            shell = "/bin/sh"
            password = {{ file = "password" }}
            [[guest.users]]
            name = "root"
            [[guest.files]]
            path = "/etc/motd"
            content = "told: 100% 'quoted'\\n"
            [[guest.files]]
            path = "/etc/apt/sources.list"
            content = "deb [trusted=yes] http://10.0.2.2:{self.mirror} ./\\n"
            [[guest.files]]
            path = "/etc/apt/sources.list.d/debian.sources"
            content = "Enabled: no\\nTypes: deb\\nURIs: http://10.0.2.2\\nSuites: ./\\n"
            [[guest.files]]
            path = "/opt/new dir/program"
            source = "/bin/true"
            mode = "0750"
            owner = "bob:adm"
            [[guest.network]]
            card = "net1"
            addresses = ["10.9.0.2/24", "fd00:9::2/64"]
            dns = ["10.9.0.3"]
            search = ["example.org"]
        """)
        self.kvmctl.ok("start", str(path))

    def inside(self, *command: str) -> str:
        """What `command` says in the guest, through the agent."""
        return self.kvmctl.ok("exec", "--via", "agent", "web", "--", *command)

    def wait(self, *conditions: str) -> str:
        words = [word for condition in conditions for word in ("--for", condition)]
        return self.kvmctl.ok("wait", "web", *words, "--timeout", str(PATIENCE))

    def stop(self) -> None:
        self.kvmctl.ok("stop", "web", "--timeout", str(PATIENCE))


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[int]:
    """The port of a Debian repository with a package of our own."""
    with repository(tmp_path, package=PACKAGE) as port:
        yield port


@pytest.fixture(scope="module")
def with_cloud_init(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config, debian_disk: Path
) -> Iterator[Kvmctl]:
    """A command line whose image ``debian`` has cloud-init, for all that is known of it."""
    with command_line_of(tmp_path_factory.mktemp("with"), pytestconfig) as kvmctl:
        kvmctl.ok("image", "import", str(debian_disk), "--name", "debian")
        yield kvmctl


@pytest.fixture(scope="module")
def without_cloud_init(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Kvmctl]:
    """A command line whose image ``debian`` has none, and was built by it."""
    with command_line_of(tmp_path_factory.mktemp("without"), pytestconfig) as kvmctl:
        kvmctl.patience = PATIENCE
        done = kvmctl("image", "build", "debian", "debian", "--no-cloud-init", "--size", "3GiB")
        if "can't be fetched" in done.stderr:
            pytest.skip(f"no packages here: {done.stderr[-500:]}")
        assert (done.returncode, done.stdout) == (0, "debian\n"), done.stderr
        assert "8 of 8: Compressing the image\ndebian: debian built (" in done.stderr
        yield kvmctl


@pytest.fixture(params=["nocloud", "credentials"])
def debian(request: pytest.FixtureRequest, mirror: int) -> Iterator[Debian]:
    kvmctl = request.getfixturevalue("with_cloud_init" if request.param == "nocloud" else "without_cloud_init")
    kvmctl.patience = 2 * PATIENCE
    yield Debian(request.param, kvmctl, mirror)
    kvmctl("kill", "web")


def check_told(debian: Debian) -> None:
    """That everything was done, once."""
    assert debian.inside("hostname") == "web-one\n"
    assert "login: bob (automatic login)" in debian.wait(r"console:login: \w+ \(")
    assert debian.inside("cat", "/etc/motd") == "told: 100% 'quoted'\n"
    assert debian.inside("stat", "-c", "%a %U:%G %s", "/opt/new dir/program") == (
        f"750 bob:adm {os.stat('/bin/true').st_size}\n"
    )
    assert debian.inside("readlink", "-f", "/etc/localtime") == "/usr/share/zoneinfo/Europe/Berlin\n"
    assert "LANG=POSIX\n" in debian.inside("cat", "/etc/default/locale").replace('"', "")
    assert debian.inside("cat", "/var/tmp/ran") == "ran\n"
    debian.inside("test", "-e", "/var/tmp/with space")
    assert debian.inside("cat", f"/usr/share/{PACKAGE}") == "installed\n"
    assert "0 loaded units listed" in debian.inside("systemctl", "--failed", "--no-pager")
    check_network_and_share(debian)


def check_users(debian: Debian) -> None:
    assert "adm" in debian.inside("id", "-nG", "bob").split()
    assert debian.inside("getent", "shadow", "bob").split(":")[1] == HASH
    assert "Bob 100%" in debian.inside("getent", "passwd", "bob")
    assert debian.inside("getent", "passwd", "eve").endswith(":/home/eve:/bin/sh\n")
    check = 'my $kept = (getpwnam("eve"))[1]; exit(crypt($ARGV[0], $kept) ne $kept)'
    debian.inside("perl", "-e", check, PASSWORD)
    debian.inside("sh", "-c", '! perl -e "$0" wrong', check)


def check_network_and_share(debian: Debian) -> None:
    """What is to be so at every boot."""
    cards = {card["ifname"]: card for card in json.loads(debian.inside("ip", "-json", "address"))}
    held = {f"{item['local']}/{item['prefixlen']}": name for name in cards for item in cards[name]["addr_info"]}
    assert held["10.9.0.2/24"] == held["fd00:9::2/64"] != held["10.0.2.15/24"]
    assert "example.org" in debian.inside("cat", "/etc/resolv.conf") + debian.inside(
        "sh", "-c", "cat /run/systemd/netif/links/* /run/systemd/network/* 2>/dev/null"
    )
    (debian.shared / "theirs").write_text("from the host")
    assert debian.inside("cat", "/mnt/my share/theirs") == "from the host"
    debian.inside("sh", "-c", "echo from the guest >'/mnt/my share/mine'")
    assert (debian.shared / "mine").read_text() == "from the guest\n"


def check_ways_in(debian: Debian) -> None:
    """ssh as people use it: the spec's user, and a host key that is known before the guest has booted."""
    kvmctl = debian.kvmctl
    known = kvmctl.directory / "state/machines/web/ssh/known_hosts"
    before = known.read_text()
    public = debian.inside("cat", "/etc/ssh/ssh_host_ed25519_key.pub")
    assert before.split()[:3] == ["kvmctl-web", *public.split()[:2]]
    assert "    StrictHostKeyChecking yes\n" in kvmctl.ok("ssh-config", "web")
    assert kvmctl.ok("ssh", "web", "--", "id -un; sudo -n whoami") == "bob\nroot\n"
    assert kvmctl.ok("ssh", "web", "--user", "root", "touch /root/mine; whoami") == "root\n"
    done = kvmctl("exec", "--via", "ssh", "web", "--", "sh", "-c", 'echo "$USER $0"; exit 7', "it's")
    assert (done.returncode, done.stdout) == (7, "bob it's\n")
    assert kvmctl("ssh", "web", "--user", "nobody", "true").returncode == 125
    assert known.read_text() == before, "a host key was taken on first sight"


def check_freeze(debian: Debian) -> None:
    """Its root file system is held still, and goes on."""
    done = debian.kvmctl("freeze", "web", "--", "true")
    assert done.returncode == 0, done.stderr
    assert "frozen" in done.stderr
    assert not done.stderr.startswith("web: 0 ")
    debian.inside("sh", "-c", "echo x >/var/tmp/thawed && sync")
    assert "web: 0 file systems thawed" in debian.kvmctl("thaw", "web").stderr


def test_a_guest_is_told_once_and_anew_when_asked(debian: Debian) -> None:
    debian.start()
    assert json.loads(debian.kvmctl.ok("show", "web", "--guest", "--json"))["via"] == debian.way
    said = debian.wait("ssh", "agent", FIRST_BOOT[debian.way])
    assert said.endswith({"nocloud": "\nstatus: done\n"}.get(debian.way, "is active (exited)\n"))
    check_told(debian)
    check_users(debian)
    check_ways_in(debian)
    check_freeze(debian)
    debian.stop()
    debian.start()
    debian.wait("ssh", "agent", FIRST_BOOT[debian.way])  # which has nothing to do but what is to be so at every boot
    check_told(debian)
    assert debian.kvmctl.ok("ssh", "web", "--user", "root", "ls /root/mine") == "/root/mine\n"
    debian.stop()
    debian.start('instance = "2"', run="echo again >>/var/tmp/ran; exit 3")
    check_failure(debian)
    assert debian.inside("cat", "/var/tmp/ran") == "ran\nagain\n"
    assert debian.kvmctl.ok("ssh", "web", "whoami") == "bob\n"
    debian.stop()


def check_failure(debian: Debian) -> None:
    """What fails of what it is told is said by who waits for it."""
    done = debian.kvmctl("wait", "web", "--for", FIRST_BOOT[debian.way], "--timeout", str(PATIENCE))
    assert done.returncode == 16, done.stderr
    assert "what was waited for in 'web' has failed" in done.stderr
    if debian.way == "nocloud":
        assert "runcmd" in done.stderr
        return
    assert "failed with status 3: sh -c echo again" in done.stderr
    done = debian.kvmctl("wait", "web", "--for", "cloud-init")
    assert (done.returncode, "has no cloud-init" in done.stderr) == (16, True), done.stderr


def test_an_image_that_was_built_is_a_machine_by_its_name_and_lets_its_user_in(without_cloud_init: Kvmctl) -> None:
    kvmctl = without_cloud_init
    (image,) = json.loads(kvmctl.ok("image", "list", "--json"))["images"]
    assert (image["name"], image["format"], image["disk_bytes"]) == ("debian", "qcow2", 3 << 30)
    assert json.loads(kvmctl.ok("show", "debian", "--guest", "--json"))["via"] == "credentials"
    kvmctl.patience = 2 * PATIENCE
    try:
        kvmctl.ok("start", "debian", "--wait", "ssh", "--timeout", str(PATIENCE))
        user = getpass.getuser()
        assert kvmctl.ok("ssh", "debian", "id -un; sudo -n id -un; hostname") == f"{user}\nroot\ndebian\n"
        assert kvmctl.ok("exec", "debian", "--", "cat", "/etc/hostname") == "debian\n"
        kvmctl.ok("stop", "debian", "--timeout", str(PATIENCE))
    finally:
        kvmctl("kill", "debian")
