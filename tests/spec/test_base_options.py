"""What every machine is started with, and what decides it."""

from __future__ import annotations

from dataclasses import replace

import factory
import pytest

from kvmctl.errors import KvmUnavailable, SpecError
from kvmctl.plan.model import Listen, Pair, Plan
from kvmctl.plan.option import Fd, render

KVM = factory.host(kvm=factory.KVM)


def words(made: Plan, flag: str) -> str:
    """What follows the one ``-flag`` on the command line."""
    (option,) = factory.options(made, flag)
    return render([option], {"qmp": 3})[1] if option.form != "bare" else ""


def test_nothing_exists_that_was_not_asked_for() -> None:
    flags = [option.flag for option in factory.plan().options]
    assert flags[:2] == ["nodefaults", "no-user-config"]
    assert flags[-1] == "S"


def test_the_guest_can_not_make_qemu_do_more_than_it_must() -> None:
    denied = "obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    assert words(factory.plan(), "sandbox") == f"on,{denied}"
    assert not factory.options(factory.plan("sandbox = false"), "sandbox")


@pytest.mark.parametrize(
    ("machine", "version", "pinned"),
    [
        ("q35", "7.2", "pc-q35-7.2"),
        ("pc", "7.2", "pc-i440fx-7.2"),
        ("microvm", "7.2", "microvm"),
        ("pc-q35-6.2", "7.2", "pc-q35-6.2"),
        ("q35", "10.0", "pc-q35-10.0"),
        ("q35", "11.1", "pc-q35-11.1"),
    ],
)
def test_machine_types_are_pinned(machine: str, version: str, pinned: str) -> None:
    made = factory.plan(f"machine = '{machine}'", qemu=factory.QEMUS[version])
    assert made.machine_type == pinned
    assert factory.only(made, "machine").lead == pinned


def test_a_deprecated_machine_type_is_said_to_be_one() -> None:
    made = factory.plan("machine = 'pc-i440fx-1.4'")
    assert "machine type pc-i440fx-1.4 is deprecated and will be gone from a later QEMU" in made.warnings


def test_acpi_can_be_left_out_on_every_version() -> None:
    made = factory.plan("acpi = false")
    assert factory.only(made, "machine").body["acpi"] is False
    assert not made.guest.acpi


# --- the accelerator


def test_kvm_is_taken_where_an_ordinary_guest_runs() -> None:
    made = factory.plan(host=KVM)
    assert made.accel == "kvm"
    assert factory.options(made, "enable-kvm")
    assert factory.only(made, "cpu").lead == "host"
    assert made.warnings == ()


def test_without_kvm_it_says_once_why_it_is_slow() -> None:
    made = factory.plan()
    assert words(made, "accel") == "tcg"
    assert factory.only(made, "accel").why == "default: there is no /dev/kvm"
    assert factory.only(made, "cpu").lead == "max"
    assert made.warnings == ("runs under TCG, without KVM: there is no /dev/kvm",)


def test_tcg_that_was_asked_for_needs_no_warning() -> None:
    made = factory.plan("accel = 'tcg'", host=KVM)
    assert (made.accel, made.warnings) == ("tcg", ())


def test_kvm_that_was_asked_for_is_never_replaced() -> None:
    with pytest.raises(KvmUnavailable) as caught:
        factory.plan("accel = 'kvm'")
    assert caught.value.detail == "there is no /dev/kvm"
    assert "kvmctl doctor" in caught.value.hint


def test_kvm_that_was_asked_for_is_obeyed_on_a_cpu_without_vmx() -> None:
    odd = factory.host(kvm=factory.kvm(cpu_flags=frozenset(), module="kvm_pvm"))
    assert factory.plan("accel = 'kvm'", host=odd).accel == "kvm"
    assert factory.plan(host=odd).accel == "tcg"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"api_version": 11}, "/dev/kvm speaks API version 11, not 12"),
        ({"creates_vcpu": False}, "/dev/kvm opens but can't create a VM with a vCPU"),
        ({"state": "denied", "reason": "no permission"}, "no permission"),
    ],
)
def test_a_kvm_that_does_not_work_is_refused_with_the_reason(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(KvmUnavailable) as caught:
        factory.plan("accel = 'kvm'", host=factory.host(kvm=factory.kvm(**changes)))
    assert caught.value.detail == reason


def test_a_qemu_without_kvm_runs_tcg() -> None:
    bare = factory.qemu(accelerators=frozenset({"tcg"}))
    assert factory.plan(host=KVM, qemu=bare).accel_reason == f"{bare.path} was built without KVM"
    with pytest.raises(KvmUnavailable):
        factory.plan("accel = 'kvm'", host=KVM, qemu=bare)


def test_missing_kvm_is_told_with_the_other_problems() -> None:
    assert factory.rejected("accel = 'kvm'\nfirmware = 'uefi-secure'\nmachine = 'pc'") == [
        "accel: there is no /dev/kvm (given 'kvm')",
        "firmware: there is no such firmware for pc (given 'uefi-secure'); machine = 'q35'",
    ]


# --- CPUs and memory


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "cpus=1,maxcpus=1,sockets=1,cores=1,threads=1"),
        ("cpus = 4", "cpus=4,maxcpus=4,sockets=1,cores=4,threads=1"),
        ("cpus = 4\ncpu = { threads = 2 }", "cpus=4,maxcpus=4,sockets=1,cores=2,threads=2"),
        ("cpus = 4\ncpu = { cores = 1 }", "cpus=4,maxcpus=4,sockets=4,cores=1,threads=1"),
        ("cpus = 2\ncpu = { max = 8, sockets = 2 }", "cpus=2,maxcpus=8,sockets=2,cores=4,threads=1"),
        ("cpus = 8\ncpu = { dies = 2 }", "cpus=8,maxcpus=8,sockets=1,dies=2,cores=4,threads=1"),
    ],
)
def test_the_topology_is_filled_in(text: str, expected: str) -> None:
    assert words(factory.plan(text), "smp") == expected


def test_what_this_kvm_does_not_let_guests_have_is_left_out_of_their_cpu() -> None:
    refusing = replace(factory.KVM, refused_cpu_features=("arch-capabilities",))
    host = replace(factory.HOST, kvm=refusing)
    assert words(factory.plan(host=host), "cpu") == "host,arch-capabilities=off"
    assert words(factory.plan("[cpu]\nmodel = 'EPYC-v3'", host=host), "cpu") == "EPYC-v3,arch-capabilities=off"
    asked = "[cpu]\nfeatures = { arch-capabilities = true, svm = false }"
    assert words(factory.plan(asked, host=host), "cpu") == "host,arch-capabilities=on,svm=off"
    assert words(factory.plan("accel = 'tcg'", host=host), "cpu") == "max"


def test_cpu_features_follow_the_model() -> None:
    made = factory.plan("[cpu]\nmodel = 'EPYC-v3'\nfeatures = { x2apic = true, svm = false, hv-spinlocks = 8191 }")
    assert words(made, "cpu") == "EPYC-v3,x2apic=on,svm=off,hv-spinlocks=8191"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("memory = '2GiB'", "size=2048M"),
        ("memory = '1032KiB'", "size=1056768B"),
        ("memory = { size = '1GiB', max = '4GiB' }", "size=1024M,slots=8,maxmem=4096M"),
        ("memory = { size = '1GiB', max = '4GiB', slots = 2 }", "size=1024M,slots=2,maxmem=4096M"),
    ],
)
def test_memory_is_written_with_its_unit(text: str, size: str) -> None:
    assert words(factory.plan(text), "m") == size


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("", {"qom-type": "memory-backend-ram", "share": False, "merge": False, "prealloc": False}),
        ("source = 'memfd'\nshared = true", {"qom-type": "memory-backend-memfd", "share": True}),
        ("source = 'file'\npath = './ram'", {"qom-type": "memory-backend-file", "mem-path": "/specs/ram"}),
        ("hugepages = true", {"qom-type": "memory-backend-memfd", "hugetlb": True, "hugetlbsize": 2 << 20}),
        ("hugepages = '1GiB'", {"hugetlbsize": 1 << 30, "prealloc": True}),
        ("merge = true\nprealloc = true", {"merge": True, "prealloc": True}),
    ],
)
def test_memory_is_what_it_was_asked_to_be(keys: str, expected: dict[str, object]) -> None:
    host = factory.host(hugepages={2 << 20: 1024, 1 << 30: 2})
    made = factory.plan(f"[memory]\nsize = '1GiB'\n{keys}", host=host)
    backend = factory.body(made, "object", "ram")
    assert backend["size"] == 1 << 30 == made.memory
    assert expected.items() <= backend.items()
    assert factory.only(made, "machine").body["memory-backend"] == "ram"


def test_more_memory_than_the_host_has_is_said() -> None:
    made = factory.plan("memory = '16GiB'")
    assert "the guest may use 16GiB of memory and the host has 8GiB" in made.warnings


# --- monitors, life cycle, the rest


@pytest.mark.parametrize("version", factory.QEMUS)
def test_there_are_three_monitors(version: str) -> None:
    made = factory.plan(qemu=factory.QEMUS[version])
    speaks = [
        option.body["chardev"]
        for option in made.options
        if option.flag == "mon" or option.body.get("qom-type") == "monitor-qmp"
    ]
    assert speaks == ["qmp", "private", "journal"]
    assert factory.body(made, "chardev", "qmp") == {"id": "qmp", "fd": Fd("qmp"), "server": True, "wait": False}
    assert factory.body(made, "chardev", "private") == {"id": "private", "fd": Fd("private")}
    assert (factory.options(made, "mon") == []) == (version == "11.1")
    assert {Listen("qmp", factory.PATHS.qmp), Pair("private")} <= set(made.fds)


def test_the_end_of_a_guest_is_decided_by_the_spec() -> None:
    text = "on_reboot = 'shutdown'\non_poweroff = 'pause'\non_crash = 'exit-failure'\nwatchdog = { action = 'pause' }"
    assert words(factory.plan(text), "action") == "reboot=shutdown,shutdown=pause,panic=exit-failure,watchdog=pause"
    assert words(factory.plan(), "action") == "reboot=reset,shutdown=poweroff,panic=shutdown"


def test_extra_arguments_come_last_and_in_order() -> None:
    arguments = ["-device", "edu", "-snapshot", "-d", "guest_errors,int", "-trace", "x=1"]
    made = factory.plan(f"extra_args = {arguments}")
    numbers = dict.fromkeys(("qmp", "private", "console", "agent", "transfer"), 1)
    assert render(made.options, numbers)[-len(arguments) :] == arguments


def test_names_and_uuids_are_always_the_same() -> None:
    first, second = factory.plan(), factory.plan()
    assert first == second
    assert first.name == "web"
    assert first.uuid == "4263959f-f450-5133-a578-0ad52e7eb68e"
    given = factory.plan("name = 'db'\nuuid = '6BA7B810-9dad-41d1-80b4-00c04fd430c8'")
    assert (given.name, given.uuid) == ("db", "6ba7b810-9dad-41d1-80b4-00c04fd430c8")


def test_a_machine_can_be_started_under_another_name() -> None:
    machine = factory.machine("name = 'db'")
    made = factory.compile_plan(machine, host=factory.HOST, qemu=factory.QEMU, paths=factory.PATHS, name="db-1")
    assert (made.name, words(made, "name")) == ("db-1", "guest=db-1,debug-threads=on")
    assert factory.only(made, "name").why == "default: the name it is started under"
    with pytest.raises(SpecError, match="name: is not a machine's name"):
        factory.compile_plan(machine, host=factory.HOST, qemu=factory.QEMU, paths=factory.PATHS, name="../db")


def test_every_option_says_why_it_is_there() -> None:
    made = factory.plan("memory = '1GiB'\n[[disks]]\npath = 'a.qcow2'\n[[networks]]\ntype = 'user'")
    for option in made.options:
        assert option.why.startswith(("default: ", "memory", "disks[0]", "networks[0]", "pci.")), option
    assert factory.only(made, "m").why == "memory.size"
    assert factory.device(made, "balloon")
    (balloon,) = [option for option in made.options if option.body.get("id") == "balloon"]
    assert balloon.why == "default: the host gets back what the guest does not use"


def test_a_qemu_without_seccomp_is_used_and_it_is_said() -> None:
    old = factory.qemu(features=frozenset())
    made = factory.plan(qemu=old)
    assert not factory.options(made, "sandbox")
    assert any("built without seccomp" in warning for warning in made.warnings)
    with pytest.raises(SpecError, match="sandbox: QEMU"):
        factory.plan("sandbox = true", qemu=old)


def test_linux_on_a_microvm_under_tcg_is_warned_of() -> None:
    text = "machine = 'microvm'\n[boot]\nkernel = './vmlinuz'\ncmdline = '{}'"
    assert any("tsc_early_khz" in warning for warning in factory.plan(text.format("quiet")).warnings)
    assert len(factory.plan(text.format("tsc_early_khz=2000000")).warnings) == 1
