"""A small Linux with an ssh server, dropbear from the distribution's package, and keys of a test's own."""

from __future__ import annotations

import gzip
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvmctl.errors import AptError
from kvmctl.image.initramfs.cpio import Archive
from kvmctl.image.initramfs.elf import needed_libraries
from kvmctl.image.packages.apt import Apt
from kvmctl.image.packages.sources import Sources

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from guestbuild.rootfs import find_libraries  # noqa: E402

IMAGES = ROOT / "machines/images/small-linux"
SERVER = "dropbear-bin"
SERVE = "/sbin/serve-ssh"
"""What starts the server in the guest."""
WITH_SERVER = "rdinit=/sbin/init-ssh"
"""What of a kernel's command line starts it at boot, once there is an address."""

TOLD = "rdinit=/sbin/init-told"
"""The same, with the keys of the seed: those that a first start made."""

_SERVE = """#!/bin/busybox sh
mkdir -p /etc/dropbear
[ -e /etc/dropbear/key ] || dropbearconvert openssh dropbear /etc/ssh-host-key /etc/dropbear/key
exec dropbear -r /etc/dropbear/key
"""
_INIT = """#!/bin/busybox sh
(until busybox ip address | busybox grep -q 'inet 10'; do busybox sleep 0.1; done; exec /sbin/serve-ssh) &
exec /init
"""
# cloud-init's part of what a seed says, and no more of it.
_INIT_TOLD = """#!/bin/busybox sh
(until ip address | grep -q 'inet 10'; do busybox sleep 0.1; done
modprobe isofs
mkdir /seed
mount -t iso9660 -o ro /dev/vda /seed
printf '%b' "$(sed -n 's/^ *"ed25519_private": "\\(.*\\)",*$/\\1/p' /seed/user-data)" >/etc/ssh-host-key
sed -n 's/^ *"\\(ssh-ed25519 [^"]*\\)",*$/\\1/p' /seed/user-data >/root/.ssh/authorized_keys
exec /sbin/serve-ssh) &
exec /init
"""


@dataclass(frozen=True)
class SshGuest:
    """What the machine is booted from, and the two keys: ours to log in with, and the guest's."""

    kernel: Path
    initrd: Path
    client_key: Path
    host_key: Path

    def spec(self, *, cmdline: str = "", tables: str = "", keys: str = "") -> str:
        """A spec of it, with further `keys` and `tables`."""
        return (
            f'memory = "256MiB"\n{keys}\n[boot]\nkernel = "{self.kernel}"\ninitrd = "{self.initrd}"\n'
            f'cmdline = "console=ttyS0 quiet panic=-1 {cmdline}"\n{tables}'
        )

    def give_keys(self, state: Path) -> None:
        """Put the keys where a machine's first start would: in its state directory `state`."""
        directory = state / "ssh"
        directory.mkdir(parents=True, mode=0o700)
        for source, name in ((self.client_key, "id_ed25519"), (self.host_key, "host_ed25519")):
            (directory / name).write_bytes(source.read_bytes())
            (directory / name).chmod(0o600)
        public = self.host_key.with_suffix(".pub").read_text()
        (directory / "known_hosts").write_text(f"kvmctl-{state.name} {public}")


def build(directory: Path) -> SshGuest:
    """Make the guest, from the small Linux guest and a package; skips the test where that can't be had."""
    built = subprocess.run(
        [sys.executable, ROOT / "scripts/build-guest", "-o", IMAGES], capture_output=True, text=True, check=False
    )
    if built.returncode:
        pytest.skip(f"the guest can't be built here: {built.stderr.strip().splitlines()[-1]}")
    client, host = directory / "client", directory / "host"
    for key in (client, host):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    try:
        archive = _archive(client.with_suffix(".pub").read_bytes(), host.read_bytes())
    except AptError as error:
        pytest.skip(f"{SERVER} is not to be had: {error}")
    base = (IMAGES / "initramfs.gz").read_bytes()
    initrd = directory / "initramfs.gz"
    # The kernel unpacks one archive after another; what comes later stands.
    initrd.write_bytes(base + bytes(-len(base) % 4) + gzip.compress(archive, 1, mtime=0))
    return SshGuest(IMAGES / "vmlinuz", initrd, client, host)


def _archive(public: bytes, host_key: bytes) -> bytes:
    sources = Sources(Apt(IMAGES / "apt"))
    archive = Archive()
    archive.add_character_device("dev/null", mode=0o666, number=(1, 3))  # a shell in the background reads from it
    archive.add_directory("root", mode=0o700)
    archive.add_directory("root/.ssh", mode=0o700)
    archive.add_file("root/.ssh/authorized_keys", public, mode=0o600)
    archive.add_file("etc/ssh-host-key", host_key, mode=0o600)
    archive.add_file("etc/shells", b"/bin/sh\n")
    for place, script in ((SERVE, _SERVE), ("/sbin/init-ssh", _INIT), ("/sbin/init-told", _INIT_TOLD)):
        archive.add_file(place, script.encode(), mode=0o755)
    needed: set[str] = set()
    for program in ("sbin/dropbear", "bin/dropbearconvert"):
        data = sources.find_file(SERVER, program)
        archive.add_file(f"usr/{program}", data, mode=0o755)
        needed.update(needed_libraries(data))
    members = [*sources.libraries(SERVER), *sources.members("zlib1g")]
    for name, data in find_libraries(sorted(needed), members).items():
        archive.add_file(f"lib/x86_64-linux-gnu/{name}", data, mode=0o755)
    return archive.finish()
