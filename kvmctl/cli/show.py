"""``kvmctl show``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Annotated, Final

import typer

from kvmctl import Description, GuestFiles, HelperInfo, Plan, State, describe, guest_files
from kvmctl.cli import output, session
from kvmctl.cli.arguments import Json, Spec
from kvmctl.cli.list import machine_record, note

_KINDS: Final = {"nocloud": "NoCloud file", "credentials": "systemd credential"}


def show(
    name: Spec,
    guest: Annotated[
        bool, typer.Option("--guest", help="What the guest is told at its first boot, secrets hidden; also of a spec.")
    ] = False,
    json: Json = False,
) -> None:
    """Show all that is known of a machine.

    Of one that runs: what it was started with and what QEMU says of it now, such as the ports it chose. Of one that
    does not: how its last run ended. With --guest: the very files that cloud-init or systemd in the guest will read.

    \b
    kvmctl show web
    kvmctl show web --json | jq -r .status.vnc
    kvmctl show machines/web.toml --guest
    """
    if guest:
        _show_guest(guest_files(name), json=json)
        return
    found = session.run(describe(name))
    if json:
        output.print_json(_record(found))
    else:
        output.print_pairs(_pairs(found))
    if found.silence:
        output.warn(found.silence)


def _show_guest(told: GuestFiles, *, json: bool) -> None:
    texts = {name: data.decode(errors="replace") for name, data in told.files.items()}
    if json:
        output.print_json({"name": told.name, "via": told.way, "files": texts})
        return
    for name, text in texts.items():
        output.emit(output.paint(f"# {_KINDS[told.way]} {name}", "bold", stream=sys.stdout))
        for line in text.splitlines():
            output.emit(output.printable(line))
        output.emit("")


def _record(found: Description) -> dict[str, object]:
    plan = found.plan
    return {
        **machine_record(found.machine),
        "spec": found.spec,
        "run_directory": found.run,
        "state_directory": found.state,
        "status": found.status,
        "silence": found.silence or None,
        "helpers": found.helpers,
        "plan": plan and {
            "source": plan.source,
            "uuid": plan.uuid,
            "description": plan.description,
            "qemu": plan.qemu,
            "qemu_version": plan.qemu_version,
            "machine_type": plan.machine_type,
            "accel": {"name": plan.accel, "reason": plan.accel_reason},
            "consoles": plan.consoles,
            "disks": plan.disks,
            "networks": plan.networks,
            "shares": plan.shares,
            "guest": plan.guest,
            "spec": plan.spec,
        },
    }  # fmt: skip


def _pairs(found: Description) -> Iterator[tuple[str, str]]:
    machine = found.machine
    yield "Name", machine.name
    yield "State", found.status.state if found.status else machine.state
    if machine.started is not None:
        yield "Up", output.duration(time.time() - machine.started)
    if machine.pid is not None:
        yield "Process", str(machine.pid)
    if note(machine):
        yield "Problem" if machine.problem else "Last run", note(machine)
    if machine.state is not State.STOPPED:
        yield from (("Problem", lost_helper(helper)) for helper in found.helpers if not helper.is_alive)
    if found.plan:
        yield from _plan_pairs(found.plan)
    if found.status:
        yield from (("Forward", forward) for forward in found.status.forwards)
        if found.status.vnc:
            yield "VNC", found.status.vnc
    yield "Defined by", found.spec or "nothing: it was started from a file"
    yield "Files", found.run
    yield "", found.state


def lost_helper(helper: HelperInfo) -> str:
    """What is to be said of a helper that ended before its machine."""
    words = f": {helper.last_words}" if helper.last_words else ""
    return f"{helper.program} of {helper.key} has ended, and what it served is lost until a restart{words}"


def _plan_pairs(plan: Plan) -> Iterator[tuple[str, str]]:
    if plan.description:
        yield "Description", plan.description
    yield "UUID", plan.uuid
    yield "Machine", f"{plan.machine_type}, QEMU {plan.qemu_version} ({plan.qemu})"
    yield "Accelerator", f"{plan.accel}: {plan.accel_reason}"
    yield "CPUs", str(plan.cpus)
    yield "Memory", output.size(plan.memory)
    for disk in plan.disks:
        words = [disk.id, disk.device, disk.format or "", disk.path or "(empty)", "read-only" if disk.read_only else ""]
        yield "Disk", "  ".join(word for word in words if word)
    for network in plan.networks:
        yield "Network", "  ".join(word for word in (network.id, network.type, network.mac or "") if word)
    for share in plan.shares:
        words = [share.id, share.driver, share.path, f"on {share.mount}" if share.mount else f"tag {share.tag}"]
        yield "Share", "  ".join(word for word in (*words, "read-only" if share.read_only else "") if word)
    for console in plan.consoles:
        yield "Console", f"{console.id}  {console.socket}"
