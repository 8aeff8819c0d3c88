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

RUNS = 7
NAME = "kvmctl-bench"
DOMAIN = f"""
<domain type='qemu'>
  <name>{NAME}</name><memory unit='MiB'>256</memory><vcpu>2</vcpu>
  <os><type machine='q35' arch='x86_64'>hvm</type></os><features><acpi/></features><cpu mode='maximum'/>
  <devices>
    <console type='pty'/><memballoon model='virtio' freePageReporting='on'/>
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


def measure() -> list[Row]:
    if shutil.which("virsh") is None or shutil.which("libvirtd") is None:
        print("libvirt is not installed: no comparison with virsh", file=sys.stderr)
        return []
    with libvirt() as uri:
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
    return [
        compare("CLI: start, against virsh start", starts, virsh_starts, bound="≤ 0.35"),
        compare("CLI: stop --force, against virsh destroy", stops, virsh_stops, bound="≤ 0.15"),
    ]


@contextmanager
def libvirt() -> Iterator[str]:
    """The URI of a libvirt that answers: the host's own, or one started for this and ended by its pid."""
    uri = "qemu:///system"
    if answers(uri):
        yield uri
        return
    daemons = [
        subprocess.Popen([name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for name in ("virtlogd", "libvirtd")
    ]
    try:
        while not answers(uri):
            if daemons[-1].poll() is not None:
                raise SystemExit("libvirtd does not start here")
        yield uri
    finally:
        for daemon in daemons:
            daemon.terminate()
            daemon.wait()


def answers(uri: str) -> bool:
    return subprocess.run(["virsh", "-q", "-c", uri, "uri"], capture_output=True, check=False).returncode == 0
