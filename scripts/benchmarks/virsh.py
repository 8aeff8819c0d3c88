"""`kvmctl start` and `stop --force`, whole processes, against `virsh start` and `virsh destroy` of an equal domain."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import Row, compare, interleave, kvmctl, timed
from kvmctl.host.kvm import probe
from kvmctl.plan.facts import choose_accel

RUNS = 7
NAME = "kvmctl-bench"
DOMAIN = f"""
<domain type='qemu'>
  <name>{NAME}</name><memory unit='MiB'>256</memory><vcpu>2</vcpu>
  <os><type machine='q35' arch='x86_64'>hvm</type></os><features><acpi/></features><cpu mode='maximum'/>
  <devices>
    <serial type='null'/><memballoon model='virtio' freePageReporting='on'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><panic model='isa'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <interface type='user'><model type='virtio'/></interface><video><model type='none'/></video>
  </devices>
</domain>
"""
SPEC = f"""
name = "{NAME}"
accel = "tcg"
cpus = 2
memory = "256MiB"
[[networks]]
type = "user"
"""


WITHOUT_KVM = """
set -e
dev=$(mktemp -d)
mount -t tmpfs -o mode=755 none "$dev"
for node in null zero full random urandom tty; do touch "$dev/$node"; mount --bind "/dev/$node" "$dev/$node"; done
for directory in pts shm net; do mkdir "$dev/$directory"; mount --rbind "/dev/$directory" "$dev/$directory"; done
mount --rbind "$dev" /dev
mkdir "$dev/libvirt"; cp -a /etc/libvirt/. "$dev/libvirt"; echo 'namespaces = []' >>"$dev/libvirt/qemu.conf"
mount --bind "$dev/libvirt" /etc/libvirt
exec libvirtd
"""
"""libvirtd in a mount namespace that has no /dev/kvm. Where KVM opens and can't be used, as on kvm_pvm, libvirt probes
QEMU anew at every start, which takes four seconds; without the device it keeps what it knows, as on any other host."""


def measure() -> list[Row]:
    if shutil.which("virsh") is None or shutil.which("libvirtd") is None:
        print("libvirt is not installed: no comparison with virsh", file=sys.stderr)
        return []
    rows = compare_with(["libvirtd"], "virsh")
    if choose_accel(probe().kvm).accel == "tcg" and os.path.exists("/dev/kvm"):
        rows += compare_with(["unshare", "-m", "sh", "-c", WITHOUT_KVM], "virsh without /dev/kvm")
    return rows


def compare_with(daemon: list[str], peer: str) -> list[Row]:
    """Starts and stops against those of a libvirtd that the command `daemon` runs."""
    with libvirt(daemon) as uri:
        virsh = ("virsh", "-q", "-c", uri)
        domain = Path(os.environ["KVMCTL_RUNTIME_DIR"]).parent / "domain.xml"
        domain.write_text(DOMAIN)
        spec = domain.with_name(f"{NAME}.toml")
        spec.write_text(SPEC)
        timed([*virsh, "define", str(domain)])
        timed(kvmctl("define", str(spec)))
        try:
            starts, stops, virsh_starts, virsh_stops = interleave(
                RUNS,
                lambda: timed(kvmctl("start", NAME)),
                lambda: timed(kvmctl("stop", "--force", NAME)),
                lambda: timed([*virsh, "start", NAME]),
                lambda: timed([*virsh, "destroy", NAME]),
            )
        finally:
            timed([*virsh, "undefine", NAME])
            timed(kvmctl("rm", NAME, "--yes"))
    return [
        compare(f"CLI: start, against {peer} start", starts, virsh_starts, bound="≤ 0.35"),
        compare(f"CLI: stop --force, against {peer} destroy", stops, virsh_stops, bound="≤ 0.15"),
    ]


@contextmanager
def libvirt(daemon: list[str]) -> Iterator[str]:
    """The URI of a libvirt that answers: the host's own, or one started for this and ended by its pid."""
    uri = "qemu:///system"
    if answers(uri):
        yield uri
        return
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    daemons = [subprocess.Popen(command, **quiet) for command in (["virtlogd"], daemon)]
    try:
        while not answers(uri):
            if daemons[-1].poll() is not None:
                raise SystemExit("libvirtd does not start here")
        yield uri
    finally:
        for daemon_process in daemons:
            daemon_process.terminate()
            daemon_process.wait()


def answers(uri: str) -> bool:
    return subprocess.run(["virsh", "-q", "-c", uri, "uri"], capture_output=True, check=False).returncode == 0
