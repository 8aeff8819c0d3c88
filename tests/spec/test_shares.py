"""Shared directories: which driver they get, what memory that takes, and what a guest is told."""

from __future__ import annotations

import factory
import pytest

from kvmctl.compile import compile_plan
from kvmctl.plan.facts import HostFacts
from kvmctl.plan.model import Plan
from kvmctl.plan.shell import shell_script
from kvmctl.plan.virtiofsd import Virtiofsd, understand
from kvmctl.spec.devices.share import GuestMount

FIRST = understand("/usr/lib/qemu/virtiofsd", "--fd=N -o source=PATH")
SECOND = Virtiofsd("/usr/libexec/virtiofsd", frozenset({"--fd", "--shared-dir", "--readonly"}), "")

SHARE = """
[[shares]]
path = "data"
"""


def served(text: str = "", *, by: Virtiofsd = SECOND, qemu: str = "7.2") -> Plan:
    """The plan of a spec with a share, on a host that has a virtiofsd."""
    return factory.plan(SHARE + text, host=host(by), qemu=factory.QEMUS[qemu])


def host(daemon: Virtiofsd) -> HostFacts:
    return factory.host(virtiofsd=daemon)


def test_without_a_virtiofsd_it_is_9p_and_memory_is_as_ever() -> None:
    made = factory.plan(SHARE)
    assert [item.driver for item in made.shares] == ["9p"]
    assert factory.body(made, "object", "ram")["qom-type"] == "memory-backend-ram"
    assert not made.helpers


def test_with_one_it_is_virtiofs_and_memory_is_shared() -> None:
    made = served()
    assert [item.driver for item in made.shares] == ["virtiofs"]
    memory = factory.body(made, "object", "ram")
    assert (memory["qom-type"], memory["share"]) == ("memory-backend-memfd", True)
    (option,) = [item for item in made.options if item.body.get("id") == "ram"]
    assert option.why == "default: enough for an ordinary Linux"
    assert option.reasons["qom-type"] == option.reasons["share"]
    assert option.reasons["share"] == "shares[0]: another process maps the guest's memory"


@pytest.mark.parametrize(
    "memory",
    ['source = "memfd"', "hugepages = true", 'source = "file"\npath = "ram"\nshared = true', "shared = true"],
)
def test_memory_that_others_may_map_is_left_as_it_is(memory: str) -> None:
    made = factory.plan(
        f"{SHARE}[memory]\nsize = '64MiB'\n{memory}", host=factory.host(virtiofsd=SECOND, hugepages={2 << 20: 4096})
    )
    assert factory.body(made, "object", "ram")["share"] is True
    assert factory.body(made, "object", "ram")["qom-type"] != "memory-backend-ram"


@pytest.mark.parametrize(
    ("memory", "key"),
    [
        ('source = "anonymous"', "memory.source"),
        ("shared = false", "memory.shared"),
        ('source = "file"\npath = "ram"', "memory.shared"),
    ],
)
def test_memory_that_is_private_excludes_virtiofs(memory: str, key: str) -> None:
    text = f"{SHARE}[memory]\nsize = '64MiB'\n{memory}"
    assert [item.driver for item in factory.plan(text, host=host(SECOND)).shares] == ["9p"]
    (problem,) = factory.rejected(text.replace('"data"', '"data"\ndriver = "virtiofs"'), host=host(SECOND))
    assert problem == (
        f"shares[0].driver: virtiofsd has to map the guest's memory, which {key} keeps private (given 'virtiofs'); "
        "memory.source = 'memfd', or driver = '9p'"
    )


@pytest.mark.parametrize("qemu", factory.QEMUS)
@pytest.mark.parametrize("machine", ["q35", "pc", "microvm"])
def test_every_platform_has_a_place_for_shares(machine: str, qemu: str) -> None:
    text = f"machine = '{machine}'\n" + "".join(f'[[shares]]\npath = "/{index}"\n' for index in range(6))
    made = factory.plan(text, host=host(SECOND), qemu=factory.QEMUS[qemu])
    suffix = "device" if machine == "microvm" else "pci"
    assert [factory.device(made, f"share{index}")["driver"] for index in range(6)] == [f"vhost-user-fs-{suffix}"] * 6


def test_the_first_virtiofsd_is_told_in_its_own_words_and_a_comma_is_data() -> None:
    paths = factory.MachinePaths(name="web", run="/run/a,b\\c", state="/state")
    machine = factory.machine(SHARE + 'cache = "none"\nread_only = true')
    (helper,) = compile_plan(machine, host=host(FIRST), qemu=factory.QEMU, paths=paths).helpers
    assert helper.argv[2:] == (
        *("-o", r"source=/run/a\,b\\c/share0.tree", "-o", "cache=none"),
        *("-o", "announce_submounts", "-o", "log_level=warn"),
    )
    assert helper.tree is not None
    assert helper.tree.read_only


def test_the_second_virtiofsd_is_told_only_what_it_knows() -> None:
    (helper,) = served('cache = "none"\nread_only = true').helpers
    assert helper.argv[2:] == (
        *("--shared-dir=/run/kvmctl/web/share0.tree", "--cache=never"),
        *("--sandbox=namespace", "--readonly"),
    )


def test_submounts_are_told_of_or_not_whichever_is_not_its_own_way() -> None:
    both = Virtiofsd("/v", frozenset({"--fd", "--shared-dir", "--announce-submounts", "--no-announce-submounts"}), "")
    for given, word in (("true", "--announce-submounts"), ("false", "--no-announce-submounts")):
        (helper,) = served(f"submounts = {given}", by=both).helpers
        assert helper.argv[-1] == word


def test_guests_are_told_what_to_mount() -> None:
    made = served('mount = "/mnt/the data"\nread_only = true\n[[shares]]\npath = "x"\ndriver = "9p"\nmount = "/x"')
    told = {item.body["name"]: item.body["string"] for item in factory.options(made, "fw_cfg")}
    assert told == {
        "opt/org.kvmctl/mounts/share0": r"share0 /mnt/the\040data virtiofs ro,nofail 0 0",
        "opt/org.kvmctl/mounts/share1": (
            "share1 /x 9p rw,trans=virtio,version=9p2000.L,msize=512000,cache=mmap,nofail 0 0"
        ),
    }


def test_a_share_without_a_place_is_left_to_the_guest() -> None:
    assert not factory.options(served(), "fw_cfg")


def test_fstab_has_no_word_that_is_two() -> None:
    mount = GuestMount("a", "virtiofs", "/a b\\c#d\te", ("ro",), read_only=True)
    assert mount.fstab == r"a /a\040b\134c\043d\011e virtiofs ro,nofail 0 0"


def test_a_script_leaves_out_what_only_kvmctl_can_serve() -> None:
    script = shell_script(served())
    assert "# left out, for virtiofsd is started with QEMU: shares[0]" in script
    assert "vhost-user-fs" not in script
