"""Forks of the small Linux guest: against raw QEMU, a cold boot and `virsh restore`, and a hundred at once."""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from unittest import mock

import psutil

import kvmctl
from benchmarks import boot
from benchmarks import measure as measuring
from benchmarks.measure import Row, compare, interleave, interleave_async, milliseconds, timed
from benchmarks.raw import raw_qemu
from benchmarks.virsh import libvirt
from kvmctl.guest import messages
from kvmctl.guest.wire import Wire
from kvmctl.spec.load import from_mapping

ROOT = Path(__file__).resolve().parents[2]
SPEC = ROOT / "machines/small-linux.toml"
NAME = "bench"
UNTIL = "console:# "
"""The prompt of its shell: the guest has nothing left to do."""
RUNS = 15
BOOTS = 5
FIRST = 11
MANY = 100
IMAGES = ("vmlinuz", "initramfs.gz")
DOMAIN = f"""
<domain type='qemu'>
  <name>{NAME}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
  <os>
    <type machine='q35' arch='x86_64'>hvm</type>
    <kernel>{{kernel}}</kernel><initrd>{{initrd}}</initrd><cmdline>console=ttyS0 quiet panic=-1</cmdline>
  </os><features><acpi/></features><cpu mode='maximum'/>
  <devices>
    <serial type='null'/><memballoon model='none'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <interface type='user'><model type='virtio'/></interface><video><model type='none'/></video>
  </devices>
</domain>
"""


def measure() -> list[Row]:
    return [*asyncio.run(_measure()), *_command_line(), *_many(), *_against_virsh()]


async def _measure() -> list[Row]:
    template = await kvmctl.create_template(NAME, SPEC, until=UNTIL)
    running = await _against_raw(template)
    first = await _against_cold(template, kvmctl.load(SPEC), guest="the small Linux", runs=FIRST, bound="≤ 0.05")
    return [running, first, *await _debian(), await _leases(template)]


async def _debian() -> list[Row]:
    """A distribution's own system, with systemd: what a fork is most quicker than."""
    if not boot.DEBIAN.exists():
        print("the Debian guest is not built: scripts/build-guest debian", file=sys.stderr)
        return []
    async with boot.settled_debian() as settled:
        frozen, disk = settled.with_name("frozen.qcow2"), settled.with_name("disk.qcow2")
        boot.overlay(settled, frozen)
        template = await kvmctl.create_template("debian", boot.debian_machine(frozen))
        begin, machine = partial(boot.overlay, settled, disk), boot.debian_machine(disk)
        return [
            await _against_cold(template, machine, guest="Debian", runs=boot.DEBIAN_RUNS, bound="≤ 0.017", before=begin)
        ]


async def _against_raw(template: kvmctl.Template) -> Row:
    """To running, against a QEMU with the same devices and no guest to be loaded."""
    spec = {"name": NAME, "memory": "256MiB", "balloon": False, "networks": [{"type": "user"}]}
    plan = kvmctl.prepare(from_mapping(spec, source="bench.toml", base="/"), is_captive=True).plan

    async def ours() -> float:
        async with await template.fork() as fork:
            return fork.profile.running

    async def theirs() -> float:
        with tempfile.TemporaryDirectory() as directory:
            began = time.perf_counter()
            with raw_qemu(plan, Path(directory)):
                return time.perf_counter() - began

    found = await interleave_async(RUNS, ours, theirs)
    return compare("library: fork to running, against raw QEMU without a guest", *found, bound="≤ 1.35")


async def _against_cold(
    template: kvmctl.Template,
    machine: kvmctl.Machine,
    *,
    guest: str,
    runs: int,
    bound: str,
    before: Callable[[], None] = lambda: None,
) -> Row:
    """To the first command's end in the guest, against booting it; what is done `before` that does not count."""

    async def forked() -> float:
        began = time.perf_counter()
        async with await template.fork() as fork:
            await fork.exec(["true"])
            return time.perf_counter() - began

    async def cold() -> float:
        before()
        began = time.perf_counter()
        async with kvmctl.launch(machine) as vm:
            await vm.wait_for_agent()
            await vm.exec(["true"])
            return time.perf_counter() - began

    found = await interleave_async(runs, forked, cold)
    return compare(f"library: fork to the first exec's end, against a cold boot of {guest}", *found, bound=bound)


async def _leases(template: kvmctl.Template) -> Row:
    """From asking a warm pool to the first command's being on its way to the guest."""
    times = []
    sent = asyncio.Event()
    send = messages.send

    async def send_and_tell(wire: Wire, kind: messages.Kind, data: bytes) -> None:
        await send(wire, kind, data)
        sent.set()

    async with kvmctl.Pool(template, size=2) as pool:
        for _ in range(BOOTS):
            while pool.ready < 2:  # noqa: ASYNC110  # a benchmark has the time
                await asyncio.sleep(0.05)
            began = time.perf_counter()
            async with pool.lease() as fork:
                with mock.patch.object(messages, "send", send_and_tell):
                    running = asyncio.ensure_future(fork.exec(["true"]))
                    await sent.wait()
                    times.append(time.perf_counter() - began)
                sent.clear()
                await running
    return Row(
        "library: lease from a warm pool to the first exec sent",
        milliseconds(statistics.median(times)),
        "",
        "",
        "≤ 5 ms",
    )


def _command_line() -> list[Row]:
    found = interleave(
        BOOTS,
        lambda: timed(measuring.kvmctl("run", "--template", NAME, "--", "true")),
        lambda: timed(measuring.kvmctl("run", str(SPEC), "--", "true")),
    )
    return [compare("CLI: run --template -- true, against run -- true", *found, bound="≤ 0.125")]


def _many() -> list[Row]:
    """A hundred forks, all alive: how soon, and how much memory each has for itself."""
    began = time.perf_counter()
    names = subprocess.run(
        measuring.kvmctl("fork", NAME, "many", "--count", str(MANY)), check=True, capture_output=True, text=True
    ).stdout.split()
    seconds = time.perf_counter() - began
    machines = kvmctl.list_machines()
    pids = [machine.pid for machine in machines if machine.pid is not None]
    private = [_private(pid) for pid in pids]
    for name in names:
        kvmctl.kill(name)
        kvmctl.remove(name)
    left = _left_of(names, pids)
    return [
        Row(f"CLI: fork --count {MANY}, all running", f"{seconds:.1f} s", "", "", "≤ 15 s"),
        Row(
            f"private memory of the largest of {len(private)} forks",
            f"{max(private) / (1 << 20):.0f} MiB",
            "",
            "",
            "≤ 40 MiB",
        ),
        Row("left of them: processes, machines, files", ", ".join(left) or "nothing", "", "", "nothing"),
    ]


def _left_of(names: list[str], pids: list[int]) -> list[str]:
    """What is still there of forks that were removed: their processes, their names in lists, and files of theirs."""
    processes = [str(pid) for pid in pids if _lives(pid)]
    machines = [machine.name for machine in kvmctl.list_machines(include_stopped=True) if machine.name in names]
    roots = (os.environ[f"KVMCTL_{part}_DIR"] for part in ("RUNTIME", "STATE"))
    files = [file for root in roots for path in os.walk(root) for file in (*path[1], *path[2]) if file in names]
    return [*processes, *machines, *files]


def _lives(pid: int) -> bool:
    """Whether the process is there, and no zombie that its parent, the host's first process, has yet to collect."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def _private(pid: int) -> int:
    """Bytes that a process has written: pages of files that only it has mapped at the moment are not its own."""
    maps = psutil.Process(pid).memory_maps(grouped=False)
    return sum(item.private_dirty for item in maps)


def _against_virsh() -> list[Row]:
    if shutil.which("virsh") is None or shutil.which("libvirtd") is None:
        print("libvirt is not installed: no comparison with virsh restore", file=sys.stderr)
        return []
    directory = Path(os.environ["KVMCTL_RUNTIME_DIR"]).parent
    saved, domain = directory / "saved", directory / "domain.xml"
    # Its own copies: it changes their owner at every start, after which those of a template are looked at anew.
    directory.chmod(0o711)  # its QEMU is another user's
    kernel, initrd = (shutil.copy(SPEC.parent / "images/small-linux" / name, directory) for name in IMAGES)
    domain.write_text(DOMAIN.format(kernel=kernel, initrd=initrd))
    with libvirt(["libvirtd"]) as uri:
        virsh = ["virsh", "-q", "-c", uri]
        timed([*virsh, "create", str(domain)])
        _await_agent(virsh)
        timed([*virsh, "save", NAME, str(saved)])

        def restore() -> float:
            seconds = timed([*virsh, "restore", str(saved)])
            timed([*virsh, "destroy", NAME])
            return seconds

        def fork() -> float:
            seconds = timed(measuring.kvmctl("fork", NAME, "one"))
            kvmctl.kill("one")
            kvmctl.remove("one")
            return seconds

        # In this order, for libvirtd is busy for a while when it has answered `virsh destroy`.
        captives, forks, restores = interleave(BOOTS, lambda: asyncio.run(_time_captive()), fork, restore)
    return [
        compare("library: fork, renewed, against virsh restore", captives, restores, bound="≤ 0.2"),
        compare("CLI: fork, against virsh restore", forks, restores, bound="≤ 0.2"),
    ]


async def _time_captive() -> float:
    """Seconds from a template in the hand to a fork that may be used."""
    template = kvmctl.load_template(NAME)
    began = time.perf_counter()
    async with await template.fork():
        return time.perf_counter() - began


def _await_agent(virsh: list[str]) -> None:
    ping = [*virsh, "qemu-agent-command", NAME, '{"execute":"guest-ping"}']
    for _ in range(600):
        with suppress(subprocess.SubprocessError):
            subprocess.run(ping, check=True, capture_output=True)
            return
        time.sleep(0.1)
    raise SystemExit("libvirt's guest does not answer")
