"""QEMU's last words and the errors they become."""

from __future__ import annotations

import pytest

from kvmctl.errors import HostError, ImageBusy, ImageError, KvmctlError, KvmUnavailable, LaunchFailed, PortBusy
from kvmctl.runtime.verdict import explain

BINARY = "qemu-system-x86_64: "


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        (
            BINARY + '-blockdev {"driver":"file"}: Failed to get "write" lock\n'
            "Is another process using the image [a.qcow2]?",
            ImageBusy,
        ),
        (
            "Could not access KVM kernel module: Permission denied\n" + BINARY + "failed to initialize kvm",
            KvmUnavailable,
        ),
        ("Could not access KVM kernel module: No such file or directory", KvmUnavailable),
        (BINARY + "-vnc 127.0.0.1:1: Failed to find an available port: Address already in use", PortBusy),
        (BINARY + "Could not set up host forwarding rule 'tcp:127.0.0.1:22-:22'", PortBusy),
        (BINARY + "cannot set up guest memory 'ram': Cannot allocate memory", HostError),
        (BINARY + "-blockdev {}: Image is not in qcow2 format", ImageError),
        (BINARY + "-blockdev {}: Could not open '/root/x': Permission denied", ImageError),
        (BINARY + "-device nonsense: 'nonsense' is not a valid device model name", LaunchFailed),
        ("", LaunchFailed),
    ],
)
def test_the_error_says_what_went_wrong_and_keeps_qemus_words(log: str, kind: type[KvmctlError]) -> None:
    error = explain("web", source="/etc/web server.toml", status=1, log=log)

    assert type(error) is kind
    assert "'web'" in error.summary
    assert error.detail == log
    assert error.hint


def test_times_before_the_lines_are_left_out() -> None:
    error = explain(
        "web", source="/etc/web server.toml", status=1, log="2026-11-20T06:48:00.123456Z qemu-system-x86_64: -m 1: no\n"
    )

    assert error.detail == "qemu-system-x86_64: -m 1: no"


@pytest.mark.parametrize(
    ("status", "words"), [(1, "exited with status 1"), (-9, "was killed by signal 9"), (None, "closed its monitor")]
)
def test_the_summary_says_how_qemu_ended(status: int | None, words: str) -> None:
    assert words in explain("web", source="/etc/web server.toml", status=status, log="").summary
