"""A plan as a script: what a launcher would hand over is opened by QEMU, set up by commands, or left out."""

from __future__ import annotations

import shlex

import pytest

from kvmctl.plan.model import (
    Console,
    CopyNvram,
    CreateImage,
    FdSource,
    Listen,
    OpenFile,
    Pair,
    Plan,
    QmpStep,
    Step,
    StoreSecret,
    Tap,
    VhostNet,
)
from kvmctl.plan.option import Fd, Fds, Option, bare, jsonopt, keyval, text
from kvmctl.plan.shell import readable, shell_script


def plan(*options: Option, fds: tuple[FdSource, ...] = (), steps: tuple[Step, ...] = ()) -> Plan:
    return Plan(
        name="web",
        uuid="",
        description="",
        source="web.toml",
        qemu="/usr/bin/qemu",
        qemu_version="7.2.22",
        accel="tcg",
        accel_reason="",
        machine_type="pc-q35-7.2",
        cpus=1,
        memory=1 << 30,
        options=options,
        fds=fds,
        steps=steps,
    )


def command(script: str) -> list[str]:
    """The words of the last command of a script."""
    return shlex.split(script[script.index("/usr/bin/qemu") :].replace("\\\n", ""))


def test_descriptors_are_shown_by_name_and_every_option_has_its_reason() -> None:
    socket = keyval("chardev", "socket", id="c", fd=Fd("qmp"), why="default: x")
    tap = jsonopt("netdev", {"type": "tap", "id": "n", "fds": Fds(("a", "b"))}, why="networks[0]")
    assert readable(plan(socket, tap)) == [
        (["-chardev", "socket,id=c,fd=<qmp>"], ["default: x"]),
        (["-netdev", '{"type":"tap","id":"n","fds":"<a>:<b>"}'], ["networks[0]"]),
    ]


def test_a_socket_is_opened_by_its_path_in_a_directory_that_is_made() -> None:
    socket = keyval("chardev", "socket", id="c", fd=Fd("qmp"), server=True, wait=False, why="")
    script = shell_script(plan(socket, fds=(Listen("qmp", "/run/my vms/web/qmp.sock"),)))
    assert "mkdir -p -m 700 '/run/my vms/web'" in script.splitlines()
    assert command(script)[1:] == ["-chardev", "socket,id=c,path=/run/my vms/web/qmp.sock,server=on,wait=off"]


def test_what_only_a_launcher_can_serve_is_left_out() -> None:
    script = shell_script(
        plan(
            keyval("chardev", "socket", id="private", fd=Fd("private"), why=""),
            keyval("chardev", "stdio", id="journal", why=""),
            keyval("mon", None, chardev="private", why=""),
            jsonopt("object", {"qom-type": "monitor-qmp", "id": "m", "chardev": "journal"}, why=""),
            jsonopt("object", {"qom-type": "iothread", "id": "t"}, why=""),
            bare("S", why=""),
            fds=(Pair("private"),),
        )
    )
    assert command(script)[1:] == ["-object", '{"qom-type":"iothread","id":"t"}']


def test_files_are_opened_by_the_shell() -> None:
    option = jsonopt("device", {"driver": "vhost-vsock-pci", "vhostfd": Fd("vsock")}, why="")
    script = shell_script(plan(option, fds=(OpenFile("vsock", "/dev/vhost-vsock", "write", "vsock"),)))
    assert command(script)[2:] == ['{"driver":"vhost-vsock-pci","vhostfd":"3"}', "3<>/dev/vhost-vsock"]


@pytest.mark.parametrize(
    ("tap", "name", "queues"),
    [
        (Tap(("net0-0",), "k", device="vm0", bridge="br0"), "vm0", 1),
        (Tap(("net0-0", "net0-1"), "k", bridge="br0"), "kvmctl-net0-0", 2),
    ],
)
def test_a_tap_is_made_by_commands_and_opened_by_name(tap: Tap, name: str, queues: int) -> None:
    body = {"type": "tap", "id": "n", "fds": Fds(tap.fds), "vhost": True, "vhostfds": Fds(("v0",))}
    fds = (tap, VhostNet(("v0",), "k"))
    script = shell_script(plan(jsonopt("netdev", body, why=""), fds=fds))
    multi = " multi_queue" if queues > 1 else ""
    assert script.splitlines()[1:4] == [
        f"[ -e /sys/class/net/{name} ] || ip tuntap add dev {name} mode tap{multi}",
        f"ip link set dev {name} master br0",
        f"ip link set dev {name} up",
    ]
    count = f'"queues":{queues},' if queues > 1 else ""
    opened = f'{{"type":"tap","id":"n","vhost":true,{count}"ifname":"{name}","script":"no","downscript":"no"}}'
    assert command(script)[1:] == ["-netdev", opened]


def test_steps_become_commands_that_may_be_repeated() -> None:
    steps = (
        CreateImage("/s/disk.qcow2", "qcow2", 1024, "k"),
        CopyNvram("/fw/VARS.fd", "raw", "/s/nvram.qcow2", "k"),
        StoreSecret("VNC_PASSWORD", "/r/secrets/vnc", "k"),
    )
    lines = shell_script(plan(steps=steps)).splitlines()
    assert "[ -e /s/disk.qcow2 ] || qemu-img create -q -f qcow2 /s/disk.qcow2 1024" in lines
    assert "[ -e /s/nvram.qcow2 ] || qemu-img convert -f raw -O qcow2 /fw/VARS.fd /s/nvram.qcow2" in lines
    assert '( umask 077; printf %s "$VNC_PASSWORD" >/r/secrets/vnc )' in lines


def test_no_word_can_leave_its_quotes() -> None:
    script = shell_script(plan(text("append", "it's $(reboot) `x` \\", why="")))
    assert command(script)[1:] == ["-append", "it's $(reboot) `x` \\"]


def test_consoles_and_what_the_monitor_would_be_told_are_remarks() -> None:
    shown = plan()._replace(
        consoles=(Console("serial0", "/run/web/console.sock", ""),),
        before_run=(QmpStep("qom-set", {"path": "/x"}),),
    )
    remarks = [line for line in shell_script(shown).splitlines() if line.startswith("#")]
    assert remarks[1:] == [
        "# console: socat -,rawer UNIX-CONNECT:/run/web/console.sock",
        '# then, on the monitor: {"execute": "qom-set", "arguments": {"path": "/x"}}',
    ]
