"""An inventory as text for people: one fact a line, the long lists wrapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from textwrap import wrap
from typing import Final

from kvmctl.ioctl.caps import Cap
from kvmctl.ioctl.inventory import Inventory
from kvmctl.ioctl.kernel import is_nesting, two_stage_paging
from kvmctl.ioctl.nodes import Node
from kvmctl.ioctl.selftest import SelfTest
from kvmctl.ioctl.words import MSR_NAMES

_LABEL: Final = 18
_WIDTH: Final = 118


def render(inventory: Inventory) -> str:
    """The whole inventory, ending in a newline."""
    parts = (_summary(inventory), _capabilities(inventory), _guests(inventory), _kernel(inventory))
    return "\n".join("\n".join(part) + "\n" for part in parts)


def _summary(inventory: Inventory) -> Iterator[str]:
    kvm = inventory.kvm
    caps = kvm.capabilities
    yield _fact(kvm.path, kvm.reason or "usable")
    if kvm.api_version:
        yield _fact("API version", str(kvm.api_version))
    if kvm.self_test != SelfTest():
        yield _fact("self-test", _self_test(kvm.self_test))
    if kvm.self_test.refused_msrs:
        yield _fact("refused", f"{', '.join(kvm.self_test.refused_msrs)}: announced to guests, and not let be set")
    if caps:
        yield _fact(
            "vCPUs",
            f"{caps.get('NR_VCPUS', 0)} recommended, {caps.get('MAX_VCPUS', 0)} at most, "
            f"ids below {caps.get('MAX_VCPU_ID', 0)}",
        )
        yield _fact("memory slots", str(caps.get("NR_MEMSLOTS", 0)))
        yield _fact("VM types", " ".join(kvm.vm_types))
    for node in (inventory.vhost_net, inventory.vhost_vsock, inventory.tun):
        yield _fact(node.path, _node(node))


def _self_test(test: SelfTest) -> str:
    if not test.runs_code:
        return f"failed: {test.reason}"
    exits = ", ".join(test.exits)
    return f"passed: a VM with a vCPU ran code, exits {exits}; {test.run_us} µs running of {test.total_us} µs in all"


def _node(node: Node) -> str:
    return node.reason or f"usable: {' '.join(node.features)}"


def _capabilities(inventory: Inventory) -> Iterator[str]:
    capabilities = inventory.kvm.capabilities
    yield f"Capabilities ({len(capabilities)} of {len(Cap)})"
    cells = [f"{name} {value}" if value != 1 else name for name, value in capabilities.items()]
    yield from _wrapped(cells)


def _guests(inventory: Inventory) -> Iterator[str]:
    guests = inventory.guests
    yield "What guests can be given"
    if not guests.cpuid:
        yield "  unknown"
        return
    yield _fact("  vendor", f"{guests.vendor}, hypervisor {guests.signature or 'unnamed'}")
    yield _fact("  addresses", f"{guests.physical_bits} bits physical, {guests.virtual_bits} bits virtual")
    yield _fact("  nesting", "yes" if {"vmx", "svm"} & {*guests.features} else "no: guests see neither vmx nor svm")
    yield "  CPUID features"
    yield from _wrapped(guests.features, indent=4)
    yield "  feature registers"
    for index, value in guests.msrs.items():
        yield f"    {index:<12}{MSR_NAMES.get(int(index, 16), ''):<30}{value:#018x}"
    yield from _wrapped(guests.msr_features, indent=4)


def _kernel(inventory: Inventory) -> Iterator[str]:
    cpu = inventory.cpu
    yield _fact("CPU", f"{cpu.vendor} {cpu.model}".strip() or "unknown")
    yield _fact("  flags", " ".join(cpu.flags) or "none that matter to virtualisation")
    if not inventory.modules:
        yield "No module of KVM's is loaded or built in"
        return
    yield _fact("two-stage paging", two_stage_paging(inventory.modules) or "none")
    yield _fact("nested", "on" if is_nesting(inventory.modules) else "off")
    for name, parameters in inventory.modules.items():
        yield f"Module {name}"
        yield from _wrapped(f"{key}={value}" for key, value in parameters.items())


def _fact(label: str, value: str) -> str:
    return f"{label:<{_LABEL - 1}} {value}"


def _wrapped(words: Iterable[str], *, indent: int = 2) -> list[str]:
    # A word's own spaces must not become places to wrap at.
    text = "  ".join(word.replace(" ", "\0") for word in words)
    lines = wrap(text, _WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]
