"""Device nodes: every way opening one can end, and the bits that vhost and tun answer with."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvmctl.ioctl import nodes
from kvmctl.ioctl.nodes import Node, open_failure, probe_tun, probe_vhost


def answer(word: int) -> nodes.Ioctl:
    """An ioctl that fills in `word` and accepts everything else."""

    def ioctl(_fd: int, _request: int, argument: int | bytearray, /) -> int:
        if isinstance(argument, bytearray):
            argument[:] = word.to_bytes(len(argument), "little")
        return 0

    return ioctl


def refuse(number: int) -> nodes.Ioctl:
    """An ioctl that knows nothing."""

    def ioctl(_fd: int, _request: int, _argument: int | bytearray, /) -> int:
        raise OSError(number, os.strerror(number))

    return ioctl


def test_a_missing_node_is_absent(tmp_path: Path) -> None:
    path = str(tmp_path / "vhost-net")
    assert probe_vhost(path) == Node(path, "absent", f"{path} does not exist")


def test_vhost_features_have_names() -> None:
    node = probe_vhost(os.devnull, ioctl=answer(0x33D008000))
    assert node.state == "usable"
    assert node.features == (
        *("mrg-rxbuf", "notify-on-empty", "log-all", "net-hdr", "ring-indirect-desc"),
        *("ring-event-idx", "version-1", "access-platform"),
    )


def test_tun_features_have_names() -> None:
    assert probe_tun(os.devnull, ioctl=answer(0x7173)).features == (
        *("tun", "tap", "napi", "napi-frags", "multi-queue", "no-pi", "one-queue", "vnet-hdr"),
    )


def test_a_node_of_something_else_is_broken() -> None:
    node = probe_vhost(os.devnull)
    assert node.state == "broken"
    assert node.reason == "/dev/null opens, but VHOST_GET_FEATURES: Inappropriate ioctl for device"


def test_a_vhost_that_can_not_start_its_worker_is_broken() -> None:
    node = probe_vhost(os.devnull, ioctl=refuse(errno.EAGAIN))
    assert (node.state, node.features) == ("broken", ())


@pytest.mark.parametrize(
    ("number", "state", "words"),
    [
        (errno.ENOENT, "absent", "does not exist"),
        (errno.EACCES, "denied", "no permission to open"),
        (errno.EPERM, "denied", "a container's device rules"),
        (errno.ENODEV, "broken", "no driver stands behind it"),
        (errno.ENXIO, "broken", "no driver stands behind it"),
        (errno.EMFILE, "broken", "Too many open files"),
    ],
)
def test_every_failure_to_open_has_its_words(number: int, state: str, words: str) -> None:
    found, reason = open_failure("/dev/kvm", OSError(number, os.strerror(number)))
    assert found == state
    assert words in reason


def test_this_hosts_tun_offers_what_tap_devices_need() -> None:
    node = probe_tun()
    if node.state != "usable":
        pytest.skip(node.reason)
    assert {"tap", "vnet-hdr"} <= set(node.features)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user to be refused")
def test_a_user_without_permission_is_told_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    node = tmp_path / "kvm"
    node.touch(mode=0o600)
    program = (
        "import os, sys; from kvmctl.ioctl.probe import probe_device; os.setgroups([]); os.setgid(65534); "
        "os.setuid(65534); device = probe_device(sys.argv[1]); print(device.state, device.reason, sep='|')"
    )
    for parent in tmp_path.parents[:-2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    ran = subprocess.run([sys.executable, "-c", program, node], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == f"denied|no permission to open {node}"
