"""The init of machines made of their host: its source and its bytes are one thing, and its host is not talked into
anything."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from pathlib import Path

import pytest

from kvmctl.errors import AgentError
from kvmctl.guest import init
from kvmctl.guest.init import wire
from kvmctl.guest.init.session import Failed, Order, Refused, Session, Terminal, exit_code
from kvmctl.guest.init.wire import Decoder, Frame, Send, Take

SCRIPT = Path(__file__).parents[2] / "scripts" / "build-init"
SOURCE = Path(init.IMAGE).parent / "src"
ORDER = Order(argv=["true"], env={"PATH": "/bin"}, directory="/", uid=0, gid=0)


def made_of() -> tuple[str, str]:
    """The digest of the source, and the version of the compiler, that the shipped program holds."""
    match = re.search(rb"kvmctl init, source (\w+), gcc ([^\0]+)\0", Path(init.IMAGE).read_bytes())
    assert match is not None
    return match[1].decode(), match[2].decode()


def test_the_shipped_program_was_made_of_this_source() -> None:
    files = [*sorted(SOURCE.glob("*.c")), *sorted(SOURCE.glob("*.h"))]
    assert sha256(b"".join(path.read_bytes() for path in files)).hexdigest() == made_of()[0]


def test_source_compiles_to_the_shipped_bytes_by_the_compiler_that_made_them(tmp_path: Path) -> None:
    compiler = os.environ.get("CC", "gcc")
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    script = "echo __VERSION__"
    said = subprocess.run([compiler, "-E", "-P", "-"], input=script, capture_output=True, text=True, check=True).stdout
    if made_of()[1] not in said:
        pytest.skip(f"the shipped program was made by gcc {made_of()[1]}, and this one is another: {said.strip()}")
    subprocess.run([SCRIPT, "--check"], check=True, env={**os.environ, "TMPDIR": str(tmp_path)})


def test_source_and_host_agree_on_the_types_of_frames() -> None:
    letters = dict(re.findall(r"(\w+) = '(\w)',", (SOURCE / "wire.h").read_text()))
    assert letters == {kind.name: kind.value.decode() for kind in (*Send, *Take)}


@pytest.mark.parametrize(
    ("name", "value"), [("WINDOW", wire.WINDOW), ("FRAME_MAX", wire.ORDER_MAX), ("PIECE", wire.BODY_MAX)]
)
def test_source_and_host_agree_on_sizes(name: str, value: int) -> None:
    match = re.search(rf"#define {name} \((\d+) << (\d+)\)", (SOURCE / "wire.h").read_text())
    assert match is not None
    assert int(match[1]) << int(match[2]) == value


# --- frames


def frame(kind: Take, body: bytes = b"") -> bytes:
    return wire.HEADER.pack(len(body), kind.value[0]) + body


def test_frames_are_whole_however_they_come() -> None:
    data = frame(Take.OUTPUT, b"some text") + frame(Take.READY) + frame(Take.EXITED, bytes(4))
    whole = list(Decoder().feed(data))
    assert whole == [Frame(Take.OUTPUT, b"some text"), Frame(Take.READY, b""), Frame(Take.EXITED, bytes(4))]
    decoder = Decoder()
    assert [found for byte in data for found in decoder.feed(bytes([byte]))] == whole


@pytest.mark.parametrize(
    "data",
    [wire.HEADER.pack(wire.BODY_MAX + 1, ord("o")), wire.HEADER.pack(0, ord("?")), b"\xff" * 5],
    ids=["too long", "unknown", "garbage"],
)
def test_what_init_never_says_is_refused(data: bytes) -> None:
    with pytest.raises(AgentError, match="never says"):
        list(Decoder().feed(data))


@pytest.mark.parametrize("read", [wire.read_status, wire.read_grant, wire.read_failure])
def test_a_frame_without_its_number_is_refused(read: Callable[[bytes], object]) -> None:
    with pytest.raises(AgentError, match="where a number was to be"):
        read(b"123")


def test_settings_can_hold_any_bytes_but_zero() -> None:
    odd = os.fsdecode(b"caf\xe9 \xff\n")
    assert wire.settings([("argument", odd)]) == b"argument\0caf\xe9 \xff\n\0"
    with pytest.raises(AgentError, match="zero byte"):
        wire.settings([("argument", "a\0b")])
    with pytest.raises(AgentError, match="more than the"):
        wire.settings([("argument", "x" * wire.ORDER_MAX)])


@pytest.mark.parametrize(
    ("status", "code"), [(0, (0, None)), (3 << 8, (3, None)), (9, (137, 9)), (0x80 | 11, (139, 11))]
)
def test_a_status_becomes_what_shells_make_of_it(status: int, code: tuple[int, int | None]) -> None:
    assert exit_code(status) == code


# --- the session


class Init:
    """The other end, as a test wants it to behave."""

    def __init__(self, port: socket.socket) -> None:
        self.port = port
        self.data = b""

    async def take(self) -> tuple[bytes, bytes]:
        """The next frame from the host: its type and body."""
        while len(self.data) < 5 or len(self.data) < 5 + struct.unpack_from("<I", self.data)[0]:
            data = await asyncio.get_running_loop().sock_recv(self.port, 65536)
            assert data
            self.data += data
        (size,) = struct.unpack_from("<I", self.data)
        kind, body, self.data = self.data[4:5], self.data[5 : 5 + size], self.data[5 + size :]
        return kind, body

    async def say(self, kind: Take, body: bytes = b"") -> None:
        await asyncio.get_running_loop().sock_sendall(self.port, frame(kind, body))


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Session, Init]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with theirs:
        async with await Session.connect(ours) as session:
            yield session, Init(theirs)


async def with_init(work: Awaitable[object], *replies: Awaitable[None]) -> object:
    """The result of `work`, while `replies` are said one after the other."""
    task = asyncio.ensure_future(work)
    for reply in replies:
        await reply
    return await task


def put(_: bytes) -> None:
    """Nobody looks at it."""


async def test_a_command_gives_its_streams_and_its_status(ends: tuple[Session, Init]) -> None:
    session, other = ends
    out, err = bytearray(), bytearray()
    status = await with_init(
        session.run(ORDER, on_stdout=out.extend, on_stderr=err.extend),
        other.say(Take.OUTPUT, b"one"),
        other.say(Take.ERRORS, b"two"),
        other.say(Take.EXITED, struct.pack("<i", 3 << 8)),
    )
    assert (status, out, err) == (3 << 8, b"one", b"two")
    kind, body = await other.take()
    assert (kind, body.split(b"\0")[:2]) == (b"C", [b"argument", b"true"])
    assert await other.take() == (b"E", b"")


async def test_no_more_input_is_sent_than_was_granted(ends: tuple[Session, Init]) -> None:
    session, other = ends
    data = os.urandom(3 * wire.WINDOW)
    task = asyncio.ensure_future(session.run(ORDER, stdin=data, on_stdout=put, on_stderr=put))
    assert (await other.take())[0] == b"C"
    came = b""
    while len(came) < wire.WINDOW:
        came += (await other.take())[1]
    assert len(came) == wire.WINDOW
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(other.take(), 0.05)
    while len(came) < len(data):
        await other.say(Take.GRANT, struct.pack("<I", 1000))
        kind, body = await other.take()
        assert (kind, len(body) <= 1000) == (b"I", True)
        came += body
    assert came == data
    assert await other.take() == (b"E", b"")
    await other.say(Take.EXITED, bytes(4))
    assert await task == 0


async def test_a_command_that_ends_does_not_wait_for_input_that_nobody_types(ends: tuple[Session, Init]) -> None:
    session, other = ends

    async def typed() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    ran = session.run(ORDER, stdin=typed(), on_stdout=put, on_stderr=put)
    assert await with_init(ran, other.say(Take.EXITED, bytes(4))) == 0


async def test_input_that_fails_ends_the_command_with_its_own_error(ends: tuple[Session, Init]) -> None:
    session, _ = ends

    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        raise OSError(errno.EIO, "the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        await session.run(ORDER, stdin=broken(), on_stdout=put, on_stderr=put)


async def test_a_guest_that_goes_away_is_an_end_of_file(ends: tuple[Session, Init]) -> None:
    session, other = ends
    task = asyncio.ensure_future(session.run(ORDER, stdin=bytes(1 << 20), on_stdout=put, on_stderr=put))
    await other.take()
    other.port.close()
    with pytest.raises(EOFError):
        await task


@pytest.mark.parametrize(
    ("kind", "body", "error"),
    [
        (Take.READY, b"", AgentError),
        (Take.REFUSED, struct.pack("<i", errno.ENOENT) + b"run nope", Refused),
        (Take.FAILED, struct.pack("<i", errno.ENODEV) + b"mount /root", Failed),
        (Take.GRANT, b"", AgentError),
    ],
)
async def test_what_a_guest_may_not_say_or_can_not_do_is_an_error(
    ends: tuple[Session, Init], kind: Take, body: bytes, error: type[Exception]
) -> None:
    session, other = ends
    with pytest.raises(error):
        await with_init(session.run(ORDER, on_stdout=put, on_stderr=put), other.say(kind, body))


async def test_a_root_is_ready_only_when_init_says_so(ends: tuple[Session, Init]) -> None:
    session, other = ends
    await with_init(session.set_up([("root", "root")]), other.say(Take.READY))
    assert await other.take() == (b"S", b"root\0root\0")
    with pytest.raises(AgentError, match="OUTPUT before it was ready"):
        await with_init(session.set_up([]), other.say(Take.OUTPUT, b"early"))


@pytest.mark.parametrize(
    ("doing", "number", "code"),
    [("run nope", errno.ENOENT, 127), ("run /etc", errno.EACCES, 126), ("go to /nope", errno.ENOENT, None)],
)
def test_what_kept_a_command_from_running_has_the_code_that_shells_give_it(doing: str, number: int, code: int) -> None:
    assert Refused(wire.Failure(number, doing)).exit_code == code


def test_an_order_says_all_that_a_command_is_run_as() -> None:
    order = Order(
        argv=["ls", "-l"],
        env={"PATH": "/bin", "A": "b=c"},
        directory="/srv",
        uid=5,
        gid=6,
        groups=(6, 7),
        terminal=Terminal(50, 132),
    )
    assert order.settings() == [
        ("argument", "ls"), ("argument", "-l"), ("variable", "PATH=/bin"), ("variable", "A=b=c"),
        ("directory", "/srv"), ("path", "/bin"), ("uid", "5"), ("gid", "6"), ("group", "6"), ("group", "7"),
        ("terminal", "50 132"),
    ]  # fmt: skip
