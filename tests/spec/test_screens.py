"""VNC, graphics and input."""

from __future__ import annotations

import factory
import pytest

from kvmctl.plan.model import CopySecret, Input, Port, StoreSecret
from kvmctl.plan.option import render
from kvmctl.plan.paths import MachinePaths

PASSWORD = "password_file = '/etc/vnc.pass'"
SECRET = "/run/kvmctl/web/secrets/vnc-password"


def server(keys: str, **facts: object) -> str:
    """What follows ``-vnc`` with these keys of its table."""
    return render([factory.only(factory.plan(f"[vnc]\n{keys}", **facts), "vnc")], {})[1]


def test_there_is_no_screen_unless_it_is_asked_for() -> None:
    made = factory.plan()
    assert factory.options(made, "vnc") == []
    assert factory.only(made, "display").lead == "none"
    assert not {"video", "input0"} & {option.body.get("id") for option in made.options}
    assert (made.guest.vnc, made.guest.display) == (False, False)


def test_vnc_is_on_a_socket_of_the_machine_s_own() -> None:
    made = factory.plan("vnc = true")
    assert render([factory.only(made, "vnc")], {})[1] == "unix:/run/kvmctl/web/vnc.sock"
    assert (made.guest.vnc, made.guest.display, made.ports) == (True, True, ())


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("socket = './a,b.sock'", "unix:/specs/a,,b.sock"),
        (f"port = 5903\n{PASSWORD}", "127.0.0.1:3,password-secret=vnc-password"),
        (f"address = '0.0.0.0'\n{PASSWORD}", "0.0.0.0:0,to=99,password-secret=vnc-password"),
        (f"address = '::1'\nport = 'auto'\n{PASSWORD}", "[::1]:0,to=99,password-secret=vnc-password"),
        ("port = 5900\ntls = '/etc/pki/vnc'", "127.0.0.1:0,tls-creds=vnc-tls"),
        (f"port = 5900\nwebsocket = true\n{PASSWORD}", "127.0.0.1:0,password-secret=vnc-password,websocket=on"),
        (f"port = 5900\nwebsocket = 8080\n{PASSWORD}", "127.0.0.1:0,password-secret=vnc-password,websocket=8080"),
    ],
)
def test_vnc_listens_where_it_is_told_to(keys: str, expected: str) -> None:
    assert server(keys) == expected


def test_ports_that_are_known_are_tried_beforehand() -> None:
    made = factory.plan(f"[vnc]\nport = 5903\nwebsocket = true\n{PASSWORD}")
    assert made.ports == (Port("127.0.0.1", 5903, "vnc.port"), Port("127.0.0.1", 5703, "vnc.websocket"))
    assert factory.plan(f"[vnc]\nport = 'auto'\nwebsocket = 8080\n{PASSWORD}").ports == (
        Port("127.0.0.1", 8080, "vnc.websocket"),
    )


def test_a_password_is_only_ever_named() -> None:
    made = factory.plan("[vnc]\nport = 5900\npassword_env = 'VNC_PASSWORD'")
    assert factory.body(made, "object", "vnc-password") == {"qom-type": "secret", "id": "vnc-password", "file": SECRET}
    assert factory.steps(made) == (StoreSecret("VNC_PASSWORD", SECRET, "vnc.password_env"),)
    given = factory.plan(f"[vnc]\n{PASSWORD}")
    assert factory.body(given, "object", "vnc-password")["file"] == SECRET
    assert factory.steps(given) == (CopySecret("/etc/vnc.pass", SECRET, "vnc.password_file"),)
    assert Input("/etc/vnc.pass", "vnc.password_file") in given.inputs


@pytest.mark.parametrize("verify", [True, False])
def test_tls_asks_for_certificates_unless_told_otherwise(verify: bool) -> None:
    keys = "" if verify else "tls_verify = false"
    made = factory.plan(f"[vnc]\nport = 5900\ntls = './pki'\n{keys}")
    assert factory.body(made, "object", "vnc-tls") == {
        "qom-type": "tls-creds-x509",
        "id": "vnc-tls",
        "endpoint": "server",
        "dir": "/specs/pki",
        "verify-peer": verify,
    }
    assert {item.path for item in made.inputs} == {
        f"/specs/pki/{name}.pem" for name in ("ca-cert", "server-cert", "server-key")
    }


def test_a_socket_that_qemu_could_not_bind_is_refused() -> None:
    deep = MachinePaths("web", "/run/" + "x" * 120, "/state")
    assert factory.rejected("vnc = true", paths=deep)[0].startswith("vnc: the socket's path has 134 bytes")
    (problem,) = factory.rejected(f"[vnc]\nsocket = '/{'x' * 200}'")
    assert problem.startswith("vnc.socket: the socket's path has 201 bytes and a Unix socket's at most 107")


def test_a_qemu_without_vnc_or_tls_is_told_of() -> None:
    bare = factory.qemu(features=frozenset())
    assert factory.rejected("[vnc]\nport = 5900\ntls = '/pki'", qemu=bare) == [
        f"vnc: QEMU 7.2.22 ({bare.path}) was built without VNC",
        f"vnc.tls: QEMU 7.2.22 ({bare.path}) was built without TLS",
    ]


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        ("vnc = true", "virtio-vga"),
        ("vnc = true\nvideo = 'std'", "VGA"),
        ("vnc = true\nmachine = 'microvm'", "virtio-gpu-device"),
        ("video = 'qxl'", "qxl-vga"),
        ("video = { model = 'cirrus' }", "cirrus-vga"),
    ],
)
def test_the_guest_sees_the_graphics_card(text: str, driver: str) -> None:
    made = factory.plan(text)
    assert factory.device(made, "video")["driver"] == driver
    assert made.guest.display


def test_without_virtio_graphics_the_plain_card_is_chosen() -> None:
    lean = factory.qemu(devices=factory.QEMU.devices - {"virtio-vga"})
    assert factory.device(factory.plan("vnc = true", qemu=lean), "video")["driver"] == "VGA"


def test_the_pointer_follows_the_viewer_s() -> None:
    made = factory.plan("vnc = true")
    tablet = factory.device(made, "input0")
    assert (tablet["driver"], tablet["bus"], tablet["port"]) == ("usb-tablet", "usb.0", "1")
    assert factory.device(made, "usb")["driver"] == "qemu-xhci"
    assert not [option for option in made.options if option.body.get("id") == "input1"]


def test_a_microvm_has_no_keyboard_of_its_own() -> None:
    made = factory.plan("machine = 'microvm'\nvnc = true")
    drivers = [factory.device(made, f"input{index}")["driver"] for index in range(2)]
    assert drivers == ["virtio-tablet-device", "virtio-keyboard-device"]


def test_input_that_is_written_is_there_without_a_screen() -> None:
    made = factory.plan("[[inputs]]\ntype = 'keyboard'\n[[inputs]]\ntype = 'mouse'\nbus = 'virtio'")
    assert factory.device(made, "input0")["driver"] == "usb-kbd"
    mouse = factory.device(made, "input1")
    assert (mouse["driver"], mouse["bus"], mouse["addr"]) == ("virtio-mouse-pci", "pcie.0", "0x1b")
