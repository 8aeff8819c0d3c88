"""What a user writes, for type checkers to read (tests/test_packaging.py); it is never run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack
from typing import assert_type

import kvmctl
from kvmctl import (
    Agent,
    AgentInfo,
    Balloon,
    Condition,
    Console,
    Event,
    ExecResult,
    Exit,
    Happening,
    Log,
    Machine,
    MachineInfo,
    Monitor,
    Plan,
    Roots,
    Rung,
    State,
    Status,
    StopResult,
    Vm,
    attach,
    launch,
    load,
    start,
    stop,
)


async def harness() -> None:
    machine = load("machines/tiny.toml")
    assert_type(machine, Machine)
    async with launch(machine, name="web") as vm:
        assert_type(vm, Vm)
        await everything(vm)
    async with AsyncExitStack() as stack:
        vms = [await stack.enter_async_context(launch("tiny")) for _ in range(2)]
        assert_type(vms, list[Vm])
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(vms[0].wait_for_event("STOP"))
            assert_type(await waiting, Event)
    async with await start("web") as started:
        assert_type(started, Vm)
    async with attach("web") as attached:
        assert_type(attached, Vm)


async def everything(vm: Vm) -> None:
    assert_type(vm.name, str)
    assert_type(vm.pid, int)
    assert_type(vm.is_alive, bool)
    assert_type(vm.plan, Plan)
    assert_type(await vm.status(), Status)
    assert_type((await vm.status()).state, State)
    assert_type(await vm.wait_for_console("READY"), str)
    assert_type(await vm.wait_for_event("RESET"), Event)
    assert_type(vm.events(), AsyncGenerator[Event, None])
    assert_type(vm.console_output(), AsyncGenerator[bytes, None])
    assert_type(await vm.exec(["true"]), ExecResult)
    assert_type((await vm.exec(["true"])).stdout, bytes)
    assert_type(await vm.balloon(), Balloon)
    assert_type(vm.agent(), Agent)
    assert_type(await vm.agent().info(), AgentInfo)
    async with vm.monitor() as monitor:
        assert_type(monitor, Monitor)
    result = await stop(vm, grace=5)
    assert_type(result, StopResult)
    assert_type(result.rung, Rung)
    assert_type(result.exit, Exit)
    assert_type(await vm.wait(), Exit)


def host() -> None:
    roots = kvmctl.find_roots()
    assert_type(roots, Roots)
    assert_type(kvmctl.list_machines(roots), list[MachineInfo])
    assert_type(kvmctl.find_machine("web", roots=roots).exit, Exit | None)
    assert_type(kvmctl.parse_condition("stopped"), Condition)
    assert_type(kvmctl.read_events("web"), Iterator[Happening])
    assert_type(kvmctl.read_log("web", Log.CONSOLE), Iterator[bytes])
    assert_type(kvmctl.kill("web"), StopResult)
    with kvmctl.open_console("web", roots=roots) as console:
        assert_type(console, Console)
    try:
        kvmctl.force_stop("web")
    except kvmctl.MonitorBusy as error:
        assert_type(error.holder, int | None)
    except kvmctl.SpecError as error:
        assert_type(error.problems, tuple[kvmctl.Problem, ...])
    except kvmctl.KvmctlError as error:
        assert_type(error.hint, str)


async def mistakes(vm: Vm) -> None:
    launch(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await vm.exec("true", on_stdout=print.nothing)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    kvmctl.lunch  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018
