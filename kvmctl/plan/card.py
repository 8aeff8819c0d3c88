"""Network cards that each fork has of its own: no template has them, and they are plugged into it. Pure.

A tap leads to a network that others are on, where two machines can't have one address, and a card that was frozen has
the address that its guest has seen. So the template is booted without the card, with an empty place where it would be,
and every fork gets a card and a tap there. It does when its guest was renewed: what that does about the card (numbers
of DHCP's transactions, addresses of IPv6) it does with random numbers of its own. See QEMU's
docs/system/vm-templating.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kvmctl.errors import Problem
from kvmctl.plan.guest import TellGuest
from kvmctl.plan.mac import derived_mac
from kvmctl.plan.model import FdSource, Network, Plan, QmpStep, Step, Tap, VhostNet
from kvmctl.plan.option import Option, descriptor_names


class Card(NamedTuple):
    """A card on a tap: what QEMU is told of it, and what it is handed."""

    key: str
    """The spec's, ``networks[0]``."""
    place: int
    """Which of the machine's cards it is, from 0."""
    tap: Tap
    fds: tuple[FdSource, ...]
    netdev: Option
    device: Option
    network: Network


def find_cards(plan: Plan) -> tuple[Card, ...]:
    """The cards of a machine that forks of it would have of their own."""
    return tuple(_card(plan, source) for source in plan.fds if isinstance(source, Tap))


def _card(plan: Plan, tap: Tap) -> Card:
    netdev = next(option for option in plan.options if not {*tap.fds}.isdisjoint(descriptor_names(option.body)))
    device = next(option for option in plan.options if option.body.get("netdev") == netdev.body["id"])
    place = [network.id for network in plan.networks].index(str(device.body["id"]))
    names = {*descriptor_names(netdev.body)}
    fds = tuple(item for item in plan.fds if isinstance(item, Tap | VhostNet) and not names.isdisjoint(item.fds))
    return Card(tap.key, place, tap, fds, netdev, device, plan.networks[place])


def problems(plan: Plan) -> Iterator[Problem]:
    """Why the cards of `plan` can't be each fork's own."""
    cards = find_cards(plan)
    for card in cards:
        yield from _card_problems(card, plan)
    told = (plan.spec.get("guest") or {}).get("network", ())
    for number, wish in enumerate(told):
        for card in cards:
            if wish["card"] == card.network.id or (wish["card"] is None and number == card.place):
                message = "is about a card that is plugged into each fork, when the guest has long been told"
                yield Problem(f"guest.network[{number}]", message, f"'{card.network.id}'", "set it up in the fork")


def _card_problems(card: Card, plan: Plan) -> Iterator[Problem]:
    if card.tap.device is not None:
        message = "an interface of the host is one machine's, and all forks would want this one"
        way_out = "bridge alone: each fork has an interface of its own on it"
        yield Problem(f"{card.key}.device", message, f"'{card.tap.device}'", way_out)
    if (mac := plan.spec["networks"][card.place]["mac"]) is not None:
        message = "all forks would have the same address on a network that they share"
        yield Problem(f"{card.key}.mac", message, f"'{mac}'", "leave it out: each fork's is made from its name")
    if plan.machine_type.startswith("microvm"):
        message = "each fork has its card plugged in, and a microvm has no bus that takes one while it runs"
        yield Problem(card.key, message, "'tap'", "machine = 'q35'; or type = 'user'")
    elif not plan.guest.acpi:
        # A pc has no other way to tell its guest, and Linux on a q35 takes its root ports for gone.
        message = "each fork has its card plugged in, which takes ACPI"
        yield Problem(card.key, message, "'tap'", "acpi = true; or type = 'user'")


def unplug(plan: Plan) -> tuple[Plan, tuple[Card, ...]]:
    """`plan` without the cards that each fork has of its own, and those. Root ports stay where they are, empty."""
    cards = find_cards(plan)
    options = {option for card in cards for option in (_name(card.netdev), _name(card.device))}
    fds = {item for card in cards for item in card.fds}
    warnings = tuple(
        f"{card.key}: '{card.network.id}' is plugged into each fork as it starts; the guest has to set it up then"
        for card in cards
    )
    return plan._replace(
        options=tuple(option for option in plan.options if _name(option) not in options),
        fds=tuple(item for item in plan.fds if item not in fds),
        networks=tuple(item for item in plan.networks if item not in {card.network for card in cards}),
        steps=tuple(_untold(step, {card.network.mac for card in cards}) for step in plan.steps),
        warnings=(*plan.warnings, *warnings),
    ), cards


def _name(option: Option) -> tuple[str, object]:
    """What tells an option that has an id from others."""
    return option.flag, option.body.get("id")


def _untold(step: Step, macs: set[str | None]) -> Step:
    """`step` with nothing for the guest to wait for that never comes."""
    if not isinstance(step, TellGuest):
        return step
    cards = tuple(card for card in step.first_boot.cards if card.mac not in macs)
    return step._replace(first_boot=step.first_boot._replace(cards=cards))


def plug(plan: Plan, cards: tuple[Card, ...]) -> Plan:
    """`plan`, of forks, with `cards` to be plugged in, which have no addresses yet; see `address`."""
    networks = list(plan.networks)
    for card in cards:
        networks.insert(card.place, card.network._replace(mac=None))
    return plan._replace(
        fds=(*plan.fds, *(item for card in cards for item in card.fds)),
        networks=tuple(networks),
        after_renewal=(*plan.after_renewal, *(step for card in cards for step in _steps(card))),
    )


def _steps(card: Card) -> Iterator[QmpStep]:
    # On the command line QEMU would warn, in every fork's log, that nobody is at the other end.
    yield QmpStep("netdev_add", card.netdev.body, why=card.key)
    yield QmpStep("device_add", {key: item for key, item in card.device.body.items() if key != "mac"}, why=card.key)


def address(plan: Plan) -> Plan:
    """The plan of a fork that has its name, with the addresses of the cards that it has of its own."""
    if not plan.after_renewal:
        return plan
    plugged = {step.arguments["id"] for step in plan.after_renewal if step.execute == "device_add"}
    macs = {item.id: derived_mac(plan.name, index) for index, item in enumerate(plan.networks) if item.id in plugged}
    return plan._replace(
        networks=tuple(item._replace(mac=macs.get(item.id, item.mac)) for item in plan.networks),
        after_renewal=tuple(_addressed(step, macs) for step in plan.after_renewal),
    )


def _addressed(step: QmpStep, macs: dict[str, str]) -> QmpStep:
    if step.execute != "device_add":
        return step
    return step._replace(arguments={**step.arguments, "mac": macs[step.arguments["id"]]})
