"""Making a machine of this host, for as long as a context lasts, or for one command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from kvmctl.errors import HostError, ImageError, SpecError
from kvmctl.guest.init.session import Input, Session, Terminal
from kvmctl.guest.run import ExecResult, OnOutput
from kvmctl.image.kernel.find import find_kernel, is_package
from kvmctl.plan.paths import Roots
from kvmctl.runtime import store
from kvmctl.runtime.hostroot.bootfiles import BootFiles, boot_files
from kvmctl.runtime.hostroot.kernels import fetch_kernel
from kvmctl.runtime.hostroot.setting import CHANNEL, HostRoot, machine_of
from kvmctl.runtime.hostroot.vm import HostRootVm
from kvmctl.runtime.launch import launch
from kvmctl.runtime.sockets import connect_unix
from kvmctl.runtime.vm import Vm
from kvmctl.spec.machine import Machine


@asynccontextmanager
async def launch_host_root(
    wanted: HostRoot, *, roots: Roots | None = None, say: Callable[[str], None] = lambda _: None
) -> AsyncIterator[HostRootVm]:
    """A machine made of this host, ready to run commands; it ends with the context or this process, and leaves nothing.

    `say` is told what takes long. Raises NotFound and ImageError for a kernel that is not there or none, AptError for
    one that can't be fetched, HostError for what this host or kernel can't do, NotRunning with the end of its console
    for a guest that ends, and what `launch` raises.
    """
    roots = roots or store.find_roots()
    boot = await asyncio.to_thread(find_boot_files, wanted, roots=roots, say=say)
    machine = machine_of(wanted, boot)
    async with AsyncExitStack() as stack:
        vm = await _launch(machine, stack, roots=roots)
        session = await stack.enter_async_context(await Session.connect(connect_unix(vm.paths.socket(CHANNEL))))
        guest = HostRootVm(vm, session, wanted=wanted, boot=boot)
        await guest.set_up()
        yield guest


def find_boot_files(wanted: HostRoot, *, roots: Roots, say: Callable[[str], None]) -> BootFiles:
    """The files to boot, found, fetched or made. Raises NotFound, ImageError, AptError, StateError."""
    if wanted.kernel is not None and is_package(wanted.kernel):
        if wanted.modules is not None:
            raise ImageError(f"the package {wanted.kernel!r} brings its own modules, and needs no directory of them")
        kernel = fetch_kernel(wanted.kernel, roots=roots, anew=wanted.fetch, say=say)
    else:
        kernel = find_kernel(wanted.kernel, modules=wanted.modules)
    return boot_files(kernel, roots=roots)


async def _launch(machine: Machine, stack: AsyncExitStack, *, roots: Roots) -> Vm:
    try:
        return await stack.enter_async_context(launch(machine, roots=roots))
    except SpecError as error:
        for problem in error.problems:
            if problem.key.endswith(".driver"):
                why = f"directories can't be shared with this kernel here: {problem.message}"
                raise HostError(why, hint=problem.allowed.partition("; or driver")[0]) from error
        raise


async def run_host_root(
    argv: Sequence[str],
    wanted: HostRoot,
    *,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    stdin: Input = b"",
    terminal: Terminal | None = None,
    on_stdout: OnOutput | None = None,
    on_stderr: OnOutput | None = None,
    roots: Roots | None = None,
) -> ExecResult:
    """Run one command in a machine made of this host: see `launch_host_root` and `HostRootVm.run`."""
    async with launch_host_root(wanted, roots=roots) as guest:
        return await guest.run(
            argv, env=env, user=user, stdin=stdin, terminal=terminal, on_stdout=on_stdout, on_stderr=on_stderr
        )
