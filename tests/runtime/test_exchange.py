"""The blocking words of a start: events in between, refusals, and a QEMU that hangs up or hangs."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from kvmctl import MonitorLost, QmpError
from kvmctl.runtime.exchange import Exchange

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
DONE = b'{"return": {}}\r\n'
RESUME = b'{"timestamp": {"seconds": 1, "microseconds": 0}, "event": "RESUME"}\r\n'


@pytest.fixture
def qemu() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def exchange(ours: socket.socket, *, seconds: float = 20) -> Exchange:
    return Exchange(ours, name="web", seconds=seconds)


def requests(theirs: socket.socket) -> list[object]:
    return [json.loads(line) for line in theirs.recv(65536).splitlines()]


def test_events_before_a_reply_are_passed_over(qemu: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = qemu
    theirs.sendall(GREETING + DONE + RESUME + RESUME + b'{"return": {"running": true}}\r\n')
    qmp = exchange(ours)
    qmp.open()
    assert qmp.execute("query-status") == {"running": True}
    assert requests(theirs) == [{"execute": "qmp_capabilities"}, {"execute": "query-status"}]


def test_arguments_are_sent_as_they_are(qemu: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = qemu
    theirs.sendall(DONE)
    exchange(ours).execute("balloon", {"value": 1 << 30})
    assert requests(theirs) == [{"execute": "balloon", "arguments": {"value": 1 << 30}}]


def test_a_refusal_is_told_in_qemus_words(qemu: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = qemu
    theirs.sendall(b'{"error": {"class": "GenericError", "desc": "Bad \\u0022thing\\u0022"}}\n')
    with pytest.raises(QmpError, match="QEMU refused 'cont': Bad \"thing\"") as caught:
        exchange(ours).execute("cont")
    assert caught.value.error_class == "GenericError"


@pytest.mark.parametrize("said", [b"", GREETING, GREETING + b'{"retu'])
def test_a_qemu_that_hangs_up_is_lost(qemu: tuple[socket.socket, socket.socket], said: bytes) -> None:
    ours, theirs = qemu
    theirs.sendall(said)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(MonitorLost, match="QEMU of 'web' closed its monitor during"):
        exchange(ours).open()


def test_a_qemu_that_is_gone_is_lost(qemu: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = qemu
    theirs.close()
    with pytest.raises(MonitorLost):
        exchange(ours).execute("cont")


@pytest.mark.parametrize("seconds", [0, 0.02])
def test_a_qemu_that_is_silent_runs_out_of_time(qemu: tuple[socket.socket, socket.socket], seconds: float) -> None:
    with pytest.raises(TimeoutError):
        exchange(qemu[0], seconds=seconds).open()
