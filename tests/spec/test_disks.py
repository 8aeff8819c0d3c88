"""Disks, CD drives and floppy drives."""

from __future__ import annotations

import factory
import pytest

from kvmctl.plan.model import CreateImage, Disk, Input

ROOT_PORT = {"driver": "pcie-root-port", "bus": "pcie.0"}


def test_an_image_is_two_nodes_with_everything_said() -> None:
    made = factory.plan("[[disks]]\npath = 'a, b.qcow2'")
    caching = {"cache": {"direct": False, "no-flush": False}, "discard": "unmap", "read-only": False}
    assert factory.body(made, "blockdev", "disk0-file") == {
        "driver": "file",
        "node-name": "disk0-file",
        "filename": "/specs/a, b.qcow2",
        "aio": "threads",
        **caching,
    }
    assert factory.body(made, "blockdev", "disk0") == {
        "driver": "qcow2",
        "node-name": "disk0",
        "file": "disk0-file",
        "detect-zeroes": "off",
        **caching,
    }
    assert made.inputs == (Input("/specs/a, b.qcow2", "disks[0].path", writable=True, locked=True),)
    assert made.disks == (Disk("disk0", "disk0", "/specs/a, b.qcow2", "qcow2", "disk", read_only=False),)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("path = 'a.qcow2'", "qcow2"),
        ("path = 'a.raw'", "raw"),
        ("path = 'a.iso'", "raw"),
        ("path = 'a.img'\nformat = 'qcow2'", "qcow2"),
        ("path = 'a.qcow2'\nformat = 'raw'", "raw"),
        ("path = '/dev/vg0/web'", "raw"),
        ("path = 'seed'\ndevice = 'cdrom'", "raw"),
    ],
)
def test_the_format_is_given_or_told_by_the_name(name: str, form: str) -> None:
    assert factory.body(factory.plan(f"[[disks]]\n{name}"), "blockdev", "disk0")["driver"] == form


@pytest.mark.parametrize(
    ("path", "keys", "driver"),
    [
        ("/dev/sdb", "", "host_device"),
        ("/dev/sr0", "device = 'cdrom'", "host_cdrom"),
        ("/dev/shm/a.raw", "", "file"),
        ("/srv/dev/a.raw", "", "file"),
    ],
)
def test_block_devices_are_opened_as_such(path: str, keys: str, driver: str) -> None:
    made = factory.plan(f"[[disks]]\npath = '{path}'\n{keys}")
    assert factory.body(made, "blockdev", "disk0-file")["driver"] == driver


@pytest.mark.parametrize(
    ("cache", "direct", "no_flush", "write_cache"),
    [
        ("writeback", False, False, "on"),
        ("none", True, False, "on"),
        ("writethrough", False, False, "off"),
        ("directsync", True, False, "off"),
        ("unsafe", False, True, "on"),
    ],
)
def test_a_cache_is_three_switches(cache: str, direct: bool, no_flush: bool, write_cache: str) -> None:
    made = factory.plan(f"[[disks]]\npath = 'a.raw'\ncache = '{cache}'")
    for node in ("disk0", "disk0-file"):
        assert factory.body(made, "blockdev", node)["cache"] == {"direct": direct, "no-flush": no_flush}
    assert factory.device(made, "disk0")["write-cache"] == write_cache


@pytest.mark.parametrize(
    ("machine", "keys", "expected"),
    [
        ("q35", "", {"driver": "virtio-blk-pci", "bus": "disk0-port", "addr": "0x0"}),
        ("q35", "bus = 'nvme'", {"driver": "nvme", "bus": "disk0-port", "addr": "0x0", "serial": "disk0"}),
        ("q35", "bus = 'scsi'", {"driver": "scsi-hd", "bus": "scsi.0", "scsi-id": 0, "lun": 0}),
        ("q35", "bus = 'sata'", {"driver": "ide-hd", "bus": "ide.0"}),
        ("q35", "bus = 'usb'", {"driver": "usb-storage", "bus": "usb.0", "port": "1"}),
        ("q35", "device = 'cdrom'", {"driver": "ide-cd", "bus": "ide.0"}),
        ("q35", "device = 'floppy'", {"driver": "floppy", "bus": "fdc.0", "unit": 0}),
        ("pc", "", {"driver": "virtio-blk-pci", "bus": "pci.0", "addr": "0xb"}),
        ("pc", "bus = 'ide'", {"driver": "ide-hd", "bus": "ide.0", "unit": 0}),
        ("pc", "bus = 'sata'", {"driver": "ide-hd", "bus": "ahci.0"}),
        ("pc", "device = 'cdrom'", {"driver": "ide-cd", "bus": "ide.0", "unit": 0}),
        ("pc", "device = 'floppy'", {"driver": "floppy", "bus": "floppy-bus.0", "unit": 0}),
        ("microvm", "", {"driver": "virtio-blk-device", "bus": "virtio-mmio-bus.0"}),
        ("microvm", "device = 'cdrom'", {"driver": "scsi-cd", "bus": "scsi.0", "scsi-id": 0, "lun": 0}),
    ],
)
def test_a_drive_is_attached_to_its_bus(machine: str, keys: str, expected: dict[str, object]) -> None:
    quiet = "balloon = false\nrng = false\nagent = false"
    made = factory.plan(f"machine = '{machine}'\n{quiet}\n[[disks]]\npath = 'a.raw'\n{keys}")
    assert {**expected, "drive": "disk0"}.items() <= factory.device(made, "disk0").items()


def test_every_disk_that_can_be_unplugged_has_a_port_of_its_own() -> None:
    made = factory.plan("".join(f"[[disks]]\npath = '{index}.raw'\n" for index in range(9)))
    ports = [factory.device(made, f"disk{index}-port") for index in range(9)]
    assert [port["addr"] for port in ports] == [*(f"0x4.{index:#x}" for index in range(8)), "0x5.0x0"]
    assert [port.get("multifunction", False) for port in ports] == [True, *[False] * 7, True]
    assert len({port["chassis"] for port in ports}) == 9


def test_disks_share_controllers() -> None:
    disk = "[[disks]]\npath = '{}.raw'\nbus = 'scsi'\n"
    made = factory.plan(disk.format(0) + disk.format(1) + disk.format(2) + "iothread = 'fast'\n")
    controllers = [option.body for option in made.options if option.body.get("driver") == "virtio-scsi-pci"]
    assert [(item["id"], item.get("iothread")) for item in controllers] == [
        ("scsi", None),
        ("scsi-iothread-fast", "iothread-fast"),
    ]
    assert [factory.device(made, f"disk{index}")["scsi-id"] for index in range(3)] == [0, 1, 0]
    assert factory.device(made, "disk2")["bus"] == "scsi-iothread-fast.0"


def test_an_io_thread_is_a_disk_s_own_or_shared() -> None:
    disk = "[[disks]]\npath = '{}.raw'\niothread = {}\n"
    made = factory.plan(disk.format(0, "true") + disk.format(1, "'io'") + disk.format(2, "'io'"))
    threads = [option.body["id"] for option in made.options if option.body.get("qom-type") == "iothread"]
    assert threads == ["iothread-disk0", "iothread-io"]
    assert [factory.device(made, f"disk{index}")["iothread"] for index in range(3)] == [
        "iothread-disk0",
        "iothread-io",
        "iothread-io",
    ]


def test_an_io_thread_of_a_microvm_needs_kvm() -> None:
    text = "machine = 'microvm'\n[[disks]]\npath = 'a.raw'\niothread = true"
    told = ["disks[0].iothread: on a microvm it needs KVM, and this machine runs under TCG"]
    assert factory.rejected(text) == told
    factory.plan(text, host=factory.host(kvm=factory.KVM))


def test_a_disk_with_a_size_is_made_where_it_is_missing() -> None:
    made = factory.plan("[[disks]]\nsize = '20GiB'\n[[disks]]\npath = 'b.raw'\nsize = '1GiB'\nid = 'data'")
    own = f"{factory.PATHS.disks}/disk0.qcow2"
    assert factory.steps(made) == (
        CreateImage(own, "qcow2", 20 << 30, "disks[0].size"),
        CreateImage("/specs/b.raw", "raw", 1 << 30, "disks[1].size"),
    )
    assert [(item.path, item.key) for item in made.inputs] == [(own, "disks[0]"), ("/specs/b.raw", "disks[1].path")]


def test_what_can_not_be_written_is_opened_for_reading_only() -> None:
    made = factory.plan("[[disks]]\npath = 'a.iso'\nread_only = true\n[[disks]]\npath = 'b.iso'\ndevice = 'cdrom'")
    for node in ("disk0", "disk0-file", "disk1", "disk1-file"):
        assert factory.body(made, "blockdev", node)["read-only"] is True
    assert [item.writable for item in made.inputs] == [False, False]
    assert "write-cache" not in factory.device(made, "disk1")


def test_a_drive_can_be_empty() -> None:
    made = factory.plan("[[disks]]\ndevice = 'cdrom'\n[[disks]]\ndevice = 'floppy'\n")
    assert factory.options(made, "blockdev") == []
    assert "drive" not in factory.device(made, "disk0")
    assert made.disks[0] == Disk("disk0", None, None, None, "cdrom", read_only=True)


def test_the_same_image_may_be_read_twice() -> None:
    factory.plan("[[disks]]\npath = 'a.iso'\nread_only = true\n[[disks]]\npath = 'a.iso'\nread_only = true")
    (problem,) = factory.rejected("[[disks]]\npath = 'a.raw'\n[[disks]]\npath = './x/../a.raw'\nread_only = true")
    assert "is the image of two disks, and one of them writes it" in problem


# --- the boot order


def boot_order(text: str) -> dict[str, int]:
    """Boot indexes by device."""
    made = factory.plan(text)
    return {str(option.body["id"]): option.body["bootindex"] for option in made.options if "bootindex" in option.body}


MEDIA = """
[[networks]]
type = "user"
[[disks]]
path = "cd.iso"
device = "cdrom"
[[disks]]
path = "a.raw"
[[disks]]
path = "b.raw"
id = "data"
"""


@pytest.mark.parametrize(
    ("boot", "order"),
    [
        ("", ["disk1", "data", "disk0", "net0"]),
        ("[boot]\norder = ['cdrom', 'disk']", ["disk0", "disk1", "data"]),
        ("[boot]\norder = ['data', 'network', 'disk']", ["data", "net0", "disk1"]),
        ("[boot]\norder = []", []),
        ("[boot]\nkernel = './vmlinuz'", []),
        ("[boot]\nkernel = './vmlinuz'\norder = ['disk1']", ["disk1"]),
    ],
)
def test_the_boot_order_becomes_boot_indexes(boot: str, order: list[str]) -> None:
    indexes = boot_order(MEDIA + boot)
    assert sorted(indexes, key=lambda name: indexes[name]) == order


def test_boot_indexes_that_are_given_are_the_only_ones() -> None:
    assert boot_order(MEDIA + "boot_index = 7") == {"data": 7}


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_a_floppy_s_boot_index_is_its_controller_s(machine: str) -> None:
    made = factory.plan(f"machine = '{machine}'\n[boot]\norder = ['floppy']\n[[disks]]\ndevice = 'floppy'")
    assert factory.only(made, "global").body == {"driver": "isa-fdc", "property": "bootindexA", "value": 1}
