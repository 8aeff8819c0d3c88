"""Cold boots that are timed, of copies that leave nothing: the machine's own disks are only read."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import Final

from kvmctl.errors import AgentError, DeadlineExceeded, NotRunning
from kvmctl.guest.agent import Agent
from kvmctl.guest.reply import take_bytes
from kvmctl.image import qemuimg
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import Roots
from kvmctl.runtime.bootmarks import Boot, BootProfile, Stage, find_init, kernel_began
from kvmctl.runtime.launch import launch
from kvmctl.runtime.prepare import load_machine, name_of, prepare
from kvmctl.runtime.vm import Vm
from kvmctl.spec.machine import Machine

_READ_MAX: Final = 4096


async def profile_boot(
    machine: Machine | str | os.PathLike[str],
    *,
    count: int = 5,
    deadline: float = 120.0,
    on_boot: Callable[[Boot], None] | None = None,
    roots: Roots | None = None,
) -> BootProfile:
    """Boot `machine`, a spec, or the name or file of one, `count` times, each time a copy, and time each stage.

    A boot is over when a command has been run in the guest, or as far as the guest has what that takes: an agent, a
    console. Each has `deadline` seconds. UEFI variables are as new each time. Raises what `launch` raises,
    DeadlineExceeded, NotRunning where the guest ends before it is up.
    """
    loaded = load_machine(machine, roots=roots)
    name = name_of(machine, loaded)
    boots: list[Boot] = []
    plan = prepare(loaded, name=name, is_captive=True, roots=roots).plan
    for _ in range(count):
        with tempfile.TemporaryDirectory(prefix="kvmctl-boot-") as directory:
            copy = await asyncio.to_thread(_copy, loaded, plan, directory)
            boots.append(await _boot(copy, name=name, deadline=deadline, roots=roots))
        if on_boot is not None:
            on_boot(boots[-1])
    return BootProfile(name, plan.accel, plan.qemu_version, tuple(boots))


def _copy(machine: Machine, plan: Plan, directory: str) -> Machine:
    """`machine` with an overlay in `directory` over each disk that it would write to. Raises ImageError."""
    program = qemuimg.find_qemu_img(plan.qemu)
    disks = []
    for index, (disk, planned) in enumerate(zip(machine.disks, plan.disks, strict=True)):
        if planned.read_only or disk.path is None or planned.path is None or planned.format is None:
            disks.append(disk)  # without a path of its own it is made anew, in the copy's own directory
            continue
        overlay = os.path.join(directory, f"{index}.qcow2")
        qemuimg.create_overlay(program, overlay, backing=planned.path, backing_format=planned.format)
        disks.append(disk.model_copy(update={"path": overlay, "format": "qcow2", "size": None}))
    return machine.model_copy(update={"disks": tuple(disks)})


async def _boot(machine: Machine, *, name: str, deadline: float, roots: Roots | None) -> Boot:
    marks: dict[Stage, float] = {}
    try:
        async with asyncio.timeout(deadline) as scope:
            async with launch(machine, roots=roots) as vm:
                began = vm.spawned or time.time()
                await _watch(vm, marks)
    except TimeoutError:
        if not scope.expired():
            raise
        seen = ", ".join(marks) or "nothing"
        raise DeadlineExceeded(
            f"machine {name!r} did not boot within {deadline:g} s", detail=f"stages that were seen to end: {seen}"
        ) from None
    return Boot(began, marks)


async def _watch(vm: Vm, marks: dict[Stage, float]) -> None:
    """See the stages of a boot end; `marks` gets each moment as it is seen."""
    console = asyncio.ensure_future(_first_byte(vm))
    try:
        marks[Stage.QEMU] = await _event(vm, "RESUME")
        if vm.plan.guest.agent is None:
            marks[Stage.FIRMWARE] = await console
            return
        if vm.plan.guest.agent == "virtio":
            await vm.wait_for_agent_channel()
            marks[Stage.INIT] = await _event(vm, "VSERPORT_CHANGE")
        await vm.wait_for_agent()
        marks[Stage.AGENT] = time.time()
        with suppress(AgentError):  # an agent need not run commands
            await vm.exec(["true"])
            marks[Stage.EXEC] = time.time()
        marks |= await _ask_kernel(vm) or ({Stage.FIRMWARE: console.result()} if console.done() else {})
    finally:
        console.cancel()
        await asyncio.gather(console, return_exceptions=True)


async def _first_byte(vm: Vm) -> float:
    """When the console said the first thing; for ever where no log is kept of it."""
    if vm.has_console_log:
        async with aclosing(vm.console_output()) as pieces:
            async for _ in pieces:
                return time.time()
        raise NotRunning(f"machine {vm.name!r} ended before it said anything")
    await vm.wait()
    raise NotRunning(f"machine {vm.name!r} ended, and nobody could tell how far it came")


async def _event(vm: Vm, name: str) -> float:
    """When the first event `name` of this run was; it has come, or will."""
    async with aclosing(vm.events()) as events:
        async for event in events:
            if event.name == name and (name != "VSERPORT_CHANGE" or event.data.get("id") == "agent"):
                return event.time
    raise NotRunning(f"machine {vm.name!r} ended while it booted")


async def _ask_kernel(vm: Vm) -> dict[Stage, float]:
    """When the guest's kernel and its first process began, by the kernel's own clock; nothing where it can't be asked.

    What is read is later than what it tells of, and so costs the boot nothing.
    """
    try:
        began = await _kernel_began(vm.agent())
        log = await vm.exec(["dmesg"])
    except (AgentError, DeadlineExceeded):
        return {}
    if began is None:
        return {}
    init = find_init(log.stdout.decode(errors="replace"))
    return {Stage.FIRMWARE: began} | ({} if init is None else {Stage.KERNEL: began + init})


async def _kernel_began(agent: Agent) -> float | None:
    async with agent.session() as session:
        handle = await session.execute("guest-file-open", {"path": "/proc/uptime", "mode": "r"})
        asked = time.time()
        reply = await session.execute("guest-file-read", {"handle": handle, "count": _READ_MAX})
        answered = time.time()
        await session.execute("guest-file-close", {"handle": handle})
    return kernel_began(take_bytes(reply, "buf-b64").decode(errors="replace"), asked=asked, answered=answered)
