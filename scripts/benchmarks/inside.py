"""The guest through its agent: a command against an exchange written by hand, a copy against the raw port with dd."""

from __future__ import annotations

import asyncio
import base64
import filecmp
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import kvmctl
from benchmarks.measure import Row, compare, interleave, interleave_async, timed
from benchmarks.measure import kvmctl as command
from kvmctl.plan.model import TRANSFER_PORT
from kvmctl.runtime.fifos import Fifos
from kvmctl.runtime.sockets import connect_unix
from kvmctl.spec.load import from_mapping

ROOT = Path(__file__).resolve().parents[2]
RUNS = 15
COPIES = 3
SIZE = 256 << 20
NAME = "bench-inside"


async def measure() -> list[Row]:
    async with small_linux(NAME, memory="1280MiB") as vm:
        rows = [await measure_exec(vm), await measure_command_line(vm, by="the resident", bound="< 4")]
        copies = await measure_copies(vm)
    async with small_linux(NAME, agent={}) as vm:
        rows.append(await measure_command_line(vm, by="the agent alone", bound="< 4"))
    return [*rows, *copies]


@asynccontextmanager
async def small_linux(name: str, **keys: object) -> AsyncIterator[kvmctl.Vm]:
    """The small Linux as it is in machines/, but for `keys`."""
    spec = kvmctl.load(ROOT / "machines/small-linux.toml").model_dump(exclude_unset=True) | {"name": name} | keys
    async with await kvmctl.start(from_mapping(spec, source=name, base=str(ROOT / "machines"))) as vm:
        try:
            await vm.wait_for_agent()
            yield vm
        finally:
            await vm.kill()
            kvmctl.remove(name)


# -- exec


async def measure_exec(vm: kvmctl.Vm) -> Row:
    async def ours() -> float:
        began = time.perf_counter()
        assert (await vm.exec(["true"])).exit_code == 0
        return time.perf_counter() - began

    async def theirs() -> float:
        began = time.perf_counter()
        with Hand(vm) as hand:
            hand.run("true")
        return time.perf_counter() - began

    found = await interleave_async(RUNS, ours, theirs)
    return compare("library: exec true, against an exchange with the agent by hand", *found, bound="≤ 1.3")


async def measure_command_line(vm: kvmctl.Vm, *, by: str, bound: str) -> Row:
    """The whole process, whose command is run `by` what there is in the guest."""
    found = await asyncio.to_thread(
        interleave,
        RUNS,
        lambda: timed(command("exec", vm.name, "--", "true")),
        lambda: timed([sys.executable, "-c", "pass"]),
    )
    return compare(f"CLI: exec true by {by}, against a start of Python", *found, bound=bound)


class Hand:
    """As little as it takes: connect, get in step, ask."""

    def __init__(self, vm: kvmctl.Vm) -> None:
        self._fifos = Fifos(vm.paths)
        assert self._fifos.try_turn()
        for end in (self._fifos.reader, self._fifos.writer):
            os.set_blocking(end, True)
        self._replies = os.fdopen(os.dup(self._fifos.reader), "rb")
        self._send(b'\xff{"execute":"guest-sync-delimited","arguments":{"id":7}}\n')
        while self._replies.read(1) != b"\xff":
            pass
        self._replies.readline()

    def _send(self, data: bytes) -> None:
        os.write(self._fifos.writer, data)

    def ask(self, name: str, **arguments: object) -> Any:
        words = {key.replace("_", "-"): value for key, value in arguments.items()}
        self._send(json.dumps({"execute": name, "arguments": words}).encode() + b"\n")
        return json.loads(self._replies.readline())["return"]

    def start(self, *argv: str) -> int:
        return int(self.ask("guest-exec", path=argv[0], arg=argv[1:], capture_output=True)["pid"])

    def end(self, pid: int) -> None:
        while not (reply := self.ask("guest-exec-status", pid=pid))["exited"]:
            time.sleep(0.001)
        assert reply["exitcode"] == 0, base64.b64decode(reply.get("err-data", ""))

    def run(self, *argv: str) -> None:
        self.end(self.start(*argv))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._replies.close()
        self._fifos.close()


# -- cp


async def measure_copies(vm: kvmctl.Vm) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        here = os.path.join(name, "file")
        await asyncio.to_thread(Path(here).write_bytes, os.urandom(1 << 20) * (SIZE >> 20))

        async def ours_in() -> float:
            await vm.exec(["rm", "-f", "/dev/shm/file"])
            return (await vm.copy_in(here, "/dev/shm/file")).seconds

        async def ours_out() -> float:
            return (await vm.copy_out("/dev/shm/file", f"{here}.back")).seconds

        raw_in = in_thread(
            lambda: raw(vm, f"dd if={{port}} of=/dev/shm/file bs=64k count={SIZE >> 16} iflag=fullblock", send)
        )
        raw_out = in_thread(lambda: raw(vm, "dd if=/dev/shm/file of={port} bs=64k", receive))
        inward = await interleave_async(COPIES, ours_in, raw_in)
        await ours_in()  # for what is there now is dd's
        outward = await interleave_async(COPIES, ours_out, raw_out)
        assert await asyncio.to_thread(filecmp.cmp, here, f"{here}.back", shallow=False)
    return [rates("into the guest", *inward), rates("out of the guest", *outward)]


def in_thread(work: Callable[[], float]) -> Callable[[], Any]:
    return lambda: asyncio.to_thread(work)


def raw(vm: kvmctl.Vm, script: str, move: Callable[[socket.socket], None]) -> float:
    """Seconds that a dd in the guest and a loop here take between them."""
    with Hand(vm) as hand, connect_unix(vm.paths.transfer) as port:
        hand.run("rm", "-f", "/dev/shm/file") if move is send else None
        began = time.perf_counter()
        pid = hand.start("/bin/sh", "-c", script.format(port=f"/dev/virtio-ports/{TRANSFER_PORT}"))
        move(port)
        hand.end(pid)
        return time.perf_counter() - began


def send(port: socket.socket) -> None:
    piece = bytes(1 << 20)
    for _ in range(SIZE >> 20):
        port.sendall(piece)


def receive(port: socket.socket) -> None:
    buffer, left = bytearray(1 << 20), SIZE
    while left:
        left -= port.recv_into(buffer)


def rates(direction: str, ours: list[float], theirs: list[float]) -> Row:
    """A row of megabytes a second, of which more is better."""
    mine, other = (SIZE / sorted(series)[len(series) // 2] / 1e6 for series in (ours, theirs))
    what = f"library: cp of 256 MiB {direction}, against the raw port with dd"
    return Row(what, f"{mine:.0f} MB/s", f"{other:.0f} MB/s", f"{mine / other:.2f}", "≥ 0.8")
