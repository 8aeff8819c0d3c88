"""Which of the example specs can be templates, and what stands in the way of the others, in words."""

from __future__ import annotations

import pytest
from golden import RECORDINGS, ROOTS, SPECS, UNSTABLE, Names, common_plan, plan_for

from kvmctl.errors import SpecError
from kvmctl.plan.fork import place
from kvmctl.plan.model import Listen, Plan
from kvmctl.plan.option import resolve
from kvmctl.testing.qapi import check_command, check_option

REFUSED = {
    "bridged-server": ["balloon", "networks[0]"],
    "devices": ["balloon"],
    "disks-q35": ["disks[5]"],
    "memory-file": ["memory.source"],
    "memory-hugepages": ["memory.hugepages"],
    "memory-plug": ["memory.shared"],
    "microvm-vsock": ["vsock"],
    "network-vhost": ["networks[0]"],
    "networks": sorted([*(f"networks[{number}]" for number in range(1, 11)), "networks[7].address"]),
    "shared-directory": ["shares[0]"],
    "shares-microvm": ["memory.shared", "memory.source", "shares[0]", "shares[1]"],
    "shares-pc": ["shares[0]", "shares[1]"],
    "shares-q35": ["shares[0]", "shares[1]", "shares[2]"],
    "vnc-password": ["vnc.port", "vnc.websocket"],
    "vnc-socket": ["vnc.socket"],
    "vnc-tls": ["vnc.websocket"],
    "vsock": ["vsock"],
}  # fmt: skip
"""The keys that a template can't have, by the specs that have them."""
TAKEN = sorted(set(SPECS) - set(REFUSED))


@pytest.mark.parametrize("name", REFUSED)
def test_what_forks_cannot_have_is_refused_by_its_key_with_a_way_out(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan_for(f"{name}@template", "10.0")
    assert sorted(problem.key for problem in caught.value.problems) == REFUSED[name]
    silent = [problem.key for problem in caught.value.problems if not problem.message]
    assert not silent


@pytest.mark.parametrize("version", RECORDINGS)
@pytest.mark.parametrize("name", TAKEN)
def test_qemu_knows_every_option_and_step_of_templates_and_forks(name: str, version: str) -> None:
    recording, problems = RECORDINGS[version], []
    for form in ("template", "fork"):
        plan = plan_for(f"{name}@{form}", version)
        problems += [problem for option in plan.options for problem in check_option(recording, option)]
    for step in plan.before_run:
        arguments = {key: resolve(value, Names()) for key, value in step.arguments.items()}
        problems += check_command(recording.schema, step.execute, arguments)
    assert not [problem for problem in problems if problem != UNSTABLE]


@pytest.mark.parametrize("version", RECORDINGS)
@pytest.mark.parametrize("name", TAKEN)
def test_a_fork_writes_nothing_that_is_its_templates(name: str, version: str) -> None:
    plan = plan_for(f"{name}@fork", version)
    for option in plan.options:
        body = option.body
        is_templates = "/templates/" in str(body.get("filename", "")) or "/templates/" in str(body.get("mem-path", ""))
        if is_templates:
            assert body.get("read-only") is True or body.get("share") is False, option
    assert not [item for item in plan.inputs if item.writable]
    assert not plan.ports


@pytest.mark.parametrize("name", TAKEN)
def test_two_forks_write_no_path_in_common(name: str) -> None:
    one, two = (written(fork_called(name, word)) for word in ("one", "two"))
    assert not one & two


def fork_called(name: str, called: str) -> Plan:
    return place(common_plan(name, "7.2"), ROOTS.machine(called), uuid=called)


def written(plan: Plan) -> set[str]:
    """What QEMU or its launcher writes of a plan."""
    sockets = {source.path for source in plan.fds if isinstance(source, Listen)}
    disks = {disk.path for disk in plan.disks if disk.path and not disk.read_only}
    return sockets | disks | {step.path for step in plan.steps} | {console.log for console in plan.consoles} - {""}
