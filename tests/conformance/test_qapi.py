"""The checks that other tests rely on: what is right passes, what is wrong is named, and QEMU agrees."""

from __future__ import annotations

import os
from typing import Any

import pytest

from kvmctl.host.identity import find_qemu
from kvmctl.host.qemu import probe_qemu
from kvmctl.plan.option import Fd, Option, bare, jsonopt, keyval, text
from kvmctl.plan.schema import Schema
from kvmctl.testing.qapi import Recording, check_command, check_event, check_option, check_reply

RIGHT: list[tuple[str, dict[str, Any]]] = [
    ("query-status", {}),
    ("human-monitor-command", {"command-line": "info version"}),
    ("object-add", {"qom-type": "iothread", "id": "i0"}),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "m0", "size": 1048576}),
    ("blockdev-add", {"driver": "null-co", "node-name": "n0", "size": 512}),
    ("blockdev-add", {"driver": "raw", "node-name": "n1", "file": {"driver": "null-co"}}),
    ("netdev_add", {"type": "hubport", "id": "h0", "hubid": 1}),
    ("chardev-add", {"id": "c0", "backend": {"type": "null", "data": {}}}),
]
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("query-stat", {}, "query-stat: no such command"),
    ("query-status", {"fast": True}, "query-status.fast: no such key"),
    ("human-monitor-command", {}, "human-monitor-command.command-line: missing"),
    ("human-monitor-command", {"command-line": 5}, "human-monitor-command.command-line: 5 is no string"),
    ("object-add", {"qom-type": "iothread", "id": "i9", "size": 5}, "object-add.size: no such key"),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "m9", "size": "1G"}, "object-add.size: '1G' is no int"),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "m9", "size": True}, "object-add.size: True is no int"),
    ("blockdev-add", {"driver": "null-co", "read-only": "on"}, "blockdev-add.read-only: 'on' is no boolean"),
    ("blockdev-add", {"driver": "raw"}, "blockdev-add.file: missing"),
    ("netdev_add", {"type": "user", "id": "u9", "dnssearch": "x"}, "netdev_add.dnssearch: 'x' is no list"),
    ("netdev_add", {"type": "user", "id": "u9", "hostfwd": [{}]}, "netdev_add.hostfwd[0].str: missing"),
    ("set-action", {"panic": "explode"}, "set-action.panic: 'explode' is none of "),
]


@pytest.fixture
def schema(recording: Recording) -> Schema:
    return recording.schema


@pytest.mark.parametrize(("name", "arguments"), RIGHT)
def test_a_right_command_passes(schema: Schema, name: str, arguments: dict[str, Any]) -> None:
    assert check_command(schema, name, arguments) == []


@pytest.mark.parametrize(("name", "arguments", "finding"), WRONG)
def test_a_wrong_command_is_named(schema: Schema, name: str, arguments: dict[str, Any], finding: str) -> None:
    [found] = check_command(schema, name, arguments)
    assert found.startswith(finding)


@pytest.mark.qemu
def test_qemu_agrees_with_every_verdict() -> None:
    commands = RIGHT + [(name, arguments) for name, arguments, _ in WRONG]
    replies = probe_qemu(find_qemu(env=os.environ), queries={str(i): item for i, item in enumerate(commands)})
    refused = [item for i, item in enumerate(commands) if "error" in replies[str(i)]]
    assert refused == commands[len(RIGHT) :]


def test_deprecated_and_unstable_count_as_wrong(schema: Schema) -> None:
    problems = check_command(schema, "block-commit", {"device": "d", "base": "/b"})
    assert problems == ["block-commit.base: deprecated"]
    assert check_command(schema, "x-query-irq", {}) == ["x-query-irq: unstable"]


def test_arguments_of_devices_are_left_to_the_recorded_properties(schema: Schema) -> None:
    arguments = {"driver": "virtio-blk-pci", "id": "d", "drive": "n0"}
    assert check_command(schema, "device_add", arguments) == []
    assert check_command(schema, "device_add", {"id": "d"}) == ["device_add.driver: missing"]


def test_events_are_checked(schema: Schema) -> None:
    shutdown = {"guest": True, "reason": "guest-shutdown"}
    assert check_event(schema, "SHUTDOWN", shutdown) == []
    assert check_event(schema, "SHUTDOWN", {"guest": True}) == ["SHUTDOWN.reason: missing"]
    assert check_event(schema, "SHUT", {}) == ["SHUT: no such event"]


def test_replies_are_checked(schema: Schema) -> None:
    assert check_reply(schema, "query-kvm", {"enabled": True, "present": True}) == []
    assert check_reply(schema, "query-kvm", {"enabled": True}) == ["query-kvm.present: missing"]
    assert check_reply(schema, "query-kvn", {}) == ["query-kvn: no such command"]


@pytest.mark.parametrize(
    "option",
    [
        jsonopt("device", {"driver": "virtio-blk-pci", "id": "d0", "bus": "p0", "addr": "1.0", "drive": "n"}, why=""),
        jsonopt("device", {"driver": "virtio-net-pci", "netdev": "n0", "mq": True, "vectors": 6}, why=""),
        jsonopt("netdev", {"type": "tap", "id": "n0", "fd": Fd("tap0"), "vhost": False}, why=""),
        jsonopt("blockdev", {"driver": "file", "node-name": "f0", "filename": "/a,b"}, why=""),
        jsonopt("object", {"qom-type": "rng-random", "id": "r0", "filename": "/dev/urandom"}, why=""),
        jsonopt("display", {"type": "none"}, why=""),
        jsonopt("audiodev", {"driver": "none", "id": "a0"}, why=""),
        keyval("machine", "q35", why="", smm=False),
        keyval("smp", why="", cpus=2, sockets=1),
        keyval("chardev", "socket", why="", id="c0", fd=Fd("x"), server=True, wait=False),
        keyval("cpu", "max", why="", vmx=False),
        bare("nodefaults", why=""),
        text("kernel", "/boot/vmlinuz", why=""),
    ],
    ids=lambda option: option.flag,
)
def test_a_right_option_passes(recording: Recording, option: Option) -> None:
    assert check_option(recording, option) == []


@pytest.mark.parametrize(
    ("option", "finding"),
    [
        (jsonopt("device", {"driver": "virtio-blk-isa"}, why=""), "-device: no device 'virtio-blk-isa'"),
        (
            jsonopt("device", {"driver": "virtio-blk-pci", "cache": "none"}, why=""),
            "-device virtio-blk-pci.cache: no such property",
        ),
        (
            jsonopt("device", {"driver": "virtio-blk-pci", "num-queues": "4"}, why=""),
            "-device virtio-blk-pci.num-queues: '4' is no uint16",
        ),
        (
            jsonopt("device", {"driver": "virtio-net-pci", "mq": "on"}, why=""),
            "-device virtio-net-pci.mq: 'on' is no bool",
        ),
        (jsonopt("device", {"driver": "qxl", "id": 5}, why=""), "-device qxl.id: 5 is no string"),
        (jsonopt("netdev", {"type": "user"}, why=""), "-netdev netdev_add.id: missing"),
        (jsonopt("machine", {"type": "q35"}, why=""), "-machine: takes no JSON"),
        (keyval("chardev", "socket", why="", filename="/x"), "-chardev filename: no such parameter"),
        (keyval("smp", why="", core=2), "-smp core: no such parameter"),
        (keyval("no-such", why="", x=2), "-no-such: no such option"),
    ],
)
def test_a_wrong_option_is_named(recording: Recording, option: Option, finding: str) -> None:
    assert check_option(recording, option) == [finding]


def test_a_machine_takes_the_properties_of_its_type(version: str, recording: Recording) -> None:
    machine = f"pc-q35-{version}"
    assert check_option(recording, keyval("machine", machine, why="", accel="tcg", smm=False, hpet=False)) == []
    assert check_option(recording, keyval("machine", machine, why="", smn=False)) == ["-machine smn: no such parameter"]
