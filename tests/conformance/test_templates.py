"""Which of the example specs can be templates, and what stands in the way of the others, in words."""

from __future__ import annotations

from typing import Any

import pytest
from golden import BOOTED, HOST, RECORDINGS, ROOTS, SPECS, UNSTABLE, WHERE, Names, common_plan, plan_for, recorded_facts

from kvmctl.compile import compile_plan
from kvmctl.errors import Problem, SpecError
from kvmctl.plan import card
from kvmctl.plan.mac import derived_mac
from kvmctl.plan.model import Listen, Plan
from kvmctl.plan.option import jsonopt, resolve
from kvmctl.plan.placing import place
from kvmctl.plan.shell import shell_script
from kvmctl.plan.template import template_plan
from kvmctl.spec.load import from_mapping
from kvmctl.testing.qapi import check_command, check_option

REFUSED = {
    "bridged-server": ["balloon", "networks[0].mac"],
    "devices": ["balloon"],
    "disks-q35": ["disks[5]"],
    "guest-shares": ["shares[0]", "shares[1]"],
    "memory-file": ["memory.source"],
    "memory-hugepages": ["memory.hugepages"],
    "memory-plug": ["memory.shared"],
    "microvm-vsock": ["vsock"],
    "networks": ["networks[10]", "networks[1].device", *(f"networks[{number}]" for number in range(5, 8)),
                 "networks[7].address", "networks[8]", "networks[9]"],
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
    assert [problem for problem in caught.value.problems if not (problem.message and problem.allowed)] == []


@pytest.mark.parametrize("version", RECORDINGS)
@pytest.mark.parametrize("name", TAKEN)
def test_qemu_knows_every_option_and_step_of_templates_and_forks(name: str, version: str) -> None:
    recording, problems = RECORDINGS[version], []
    for form in ("template", "fork"):
        plan = plan_for(f"{name}@{form}", version)
        problems += [problem for option in plan.options for problem in check_option(recording, option)]
    for step in (*plan.before_run, *plan.after_renewal):
        arguments = {key: resolve(value, Names()) for key, value in step.arguments.items()}
        problems += check_command(recording.schema, step.execute, arguments)
        if step.execute == "device_add":
            problems += check_option(recording, jsonopt("device", arguments, why=""))
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
    return card.address(place(common_plan(name, "7.2"), ROOTS.machine(called), uuid=called))


def written(plan: Plan) -> set[str]:
    """What QEMU or its launcher writes of a plan."""
    sockets = {source.path for source in plan.fds if isinstance(source, Listen)}
    disks = {disk.path for disk in plan.disks if disk.path and not disk.read_only}
    return sockets | disks | {step.path for step in plan.steps} | {console.log for console in plan.consoles} - {""}


# -- cards that each fork has of its own

CARDS = ["forked-networks", "forked-networks-pc"]


@pytest.mark.parametrize("name", CARDS)
def test_a_card_on_a_tap_is_no_part_of_the_template_and_its_place_stays_empty(name: str) -> None:
    machine, template = plan_for(name, "10.0"), plan_for(f"{name}@template", "10.0")
    taps = {network.id for network in machine.networks if network.type == "tap"}
    ids = {option.body.get("id") for option in template.options}
    assert not ids & {*taps, *(f"{tap}-netdev" for tap in taps)}
    assert {f"{tap}-port" for tap in taps} <= ids or "i440fx" in machine.machine_type
    assert {network.type for network in template.networks} <= {"user", "none"}
    assert [warning.partition(":")[0] for warning in template.warnings] == [
        item.key for item in card.find_cards(machine)
    ]


@pytest.mark.parametrize("version", RECORDINGS)
@pytest.mark.parametrize("name", CARDS)
def test_a_fork_has_its_cards_where_the_spec_has_them_with_addresses_of_its_own(name: str, version: str) -> None:
    machine, fork = plan_for(name, version), plan_for(f"{name}@fork", version)
    assert [network.id for network in fork.networks] == [network.id for network in machine.networks]
    for item in card.find_cards(machine):
        netdev, device = (step.arguments for step in fork.after_renewal if step.why == item.key)
        assert netdev == item.netdev.body
        assert device == {**item.device.body, "mac": derived_mac("one", item.place)}
        assert fork.networks[item.place].mac == device["mac"] != item.network.mac
        assert set(item.fds) <= set(fork.fds)


def test_forks_have_different_addresses_and_each_the_same_one_again() -> None:
    one, two, again = (fork_called("forked-networks", word) for word in ("one", "two", "one"))
    assert one.networks == again.networks
    assert not {one.networks[index].mac for index in (1, 3)} & {two.networks[index].mac for index in (1, 3)}


def test_what_is_booted_cold_has_all_its_cards() -> None:
    plan = compiled(networks=[{"type": "tap"}])
    whole = template_plan(plan, machine=BOOTED, template=WHERE.made, generation_id=True)
    assert whole.networks == plan.networks
    assert card.find_cards(whole) == card.find_cards(plan)


def test_a_guest_is_not_told_of_a_card_that_never_comes() -> None:
    for form, names in (("", ["eth0", "eth1", "eth3"]), ("@template", ["eth0"])):
        steps = plan_for(f"forked-networks{form}", "10.0").steps
        (told,) = [step.first_boot for step in steps if hasattr(step, "first_boot")]
        assert [item.name for item in told.cards] == names


def test_a_script_of_a_fork_says_what_the_monitor_is_told() -> None:
    lines = shell_script(fork_called("forked-networks", "one")).splitlines()
    assert "ip link set dev kvmctl-wide-tap master br0" in lines
    (added,) = [line for line in lines if '"netdev_add"' in line and '"wide-netdev"' in line]
    assert '"ifname": "kvmctl-wide-tap"' in added
    assert '"fds"' not in added


TAP = {"type": "tap", "bridge": "br0"}
REASONS: list[tuple[dict[str, Any], Problem]] = [
    (
        {"networks": [{**TAP, "device": "tap0"}]},
        Problem(
            "networks[0].device",
            "an interface of the host is one machine's, and all forks would want this one",
            "'tap0'",
            "bridge alone: each fork has an interface of its own on it",
        ),
    ),
    (
        {"networks": [{"type": "user"}, {**TAP, "mac": "52:54:00:00:00:07"}]},
        Problem(
            "networks[1].mac",
            "all forks would have the same address on a network that they share",
            "'52:54:00:00:00:07'",
            "leave it out: each fork's is made from its name",
        ),
    ),
    (
        {"machine": "microvm", "networks": [TAP]},
        Problem(
            "networks[0]",
            "each fork has its card plugged in, and a microvm has no bus that takes one while it runs",
            "'tap'",
            "machine = 'q35'; or type = 'user'",
        ),
    ),
    (
        {"acpi": False, "networks": [TAP]},
        Problem(
            "networks[0]",
            "each fork has its card plugged in, which takes ACPI",
            "'tap'",
            "acpi = true; or type = 'user'",
        ),
    ),
    (
        {"networks": [{"type": "user"}, {**TAP, "id": "lan"}], "guest": {"network": [{"card": "lan"}]}},
        Problem(
            "guest.network[0]",
            "is about a card that is plugged into each fork, when the guest has long been told",
            "'lan'",
            "set it up in the fork",
        ),
    ),
    (
        {"networks": [{"type": "stream", "address": "10.0.0.1:7000"}]},
        Problem(
            "networks[0]",
            "all forks would be at the same end of one cable",
            "'stream'",
            "type = 'user', or 'tap' with a bridge",
        ),
    ),
]


@pytest.mark.parametrize(("spec", "problem"), REASONS)
def test_cards_that_cannot_be_each_forks_own_are_refused_in_these_words(spec: dict[str, Any], problem: Problem) -> None:
    with pytest.raises(SpecError) as caught:
        template_plan(compiled(**spec), machine=BOOTED, template=WHERE.made, generation_id=True)
    assert caught.value.problems == (problem,)


def compiled(**spec: Any) -> Plan:
    machine = from_mapping({"name": "one", **spec}, source="/srv/one.toml", base="/srv")
    return compile_plan(machine, host=HOST, qemu=recorded_facts("10.0"), paths=BOOTED)
