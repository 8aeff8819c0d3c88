"""The tiny guest does what its documentation says, under TCG and, where there is one, KVM."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from kvmctl.errors import AgentError, DeadlineExceeded, KvmctlError
from kvmctl.guest import tiny
from kvmctl.guest.agent import Agent
from kvmctl.guest.run import run
from kvmctl.guest.tiny import Key

from .raw_qemu import QEMU, RawQemu, raw_qemu

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed"),
]

ACCELERATORS = {
    "tcg": ("-accel", "tcg"),
    # No arch-capabilities: a KVM without that MSR exists, and QEMU aborts on it.
    "kvm": ("-accel", "kvm", "-cpu", "host,-arch-capabilities"),
}
MACHINES = {
    "q35": ("-M", "q35", "-bios", "qboot.rom"),
    "pc": ("-M", "pc", "-bios", "qboot.rom"),
    "microvm": ("-M", "microvm"),
}
EXIT_DEVICE = ("-device", "isa-debug-exit,iobase=0x501,iosize=2")
READY = rb"\r\nREADY\r\n"


def missing_kvm() -> str:
    """Why KVM can't be used here; empty if it can."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        return f"/dev/kvm does not open: {error.strerror}"
    return ""


@pytest.fixture(
    params=["tcg", pytest.param("kvm", marks=pytest.mark.skipif(bool(missing_kvm()), reason=missing_kvm() or "-"))]
)
def accel(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return ACCELERATORS[request.param]


Boot = Callable[..., RawQemu]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RawQemu]]:
    """Starts a QEMU with the options given; it ends with the test."""
    with ExitStack() as stack:

        def enter(*options: str) -> RawQemu:
            context: AbstractContextManager[RawQemu] = raw_qemu(tmp_path / "qemu.log", *options)
            return stack.enter_context(context)

        yield enter


@pytest.fixture
def boot(start: Boot, accel: tuple[str, ...]) -> Boot:
    """Boots the guest by -kernel and waits for READY; takes words for its command line and further options."""

    def booted(words: str = "", *options: str, machine: str = "q35") -> RawQemu:
        qemu = start(*MACHINES[machine], *accel, "-kernel", tiny.IMAGE, "-append", words, *options)
        qemu.console.expect(READY)
        return qemu

    return booted


def sync(qemu: RawQemu, number: int) -> None:
    request = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
    qemu.agent.send(b"\xff" + json.dumps(request).encode() + b"\n")
    qemu.agent.expect(b'\\xff{"return": %d}\n' % number)


def ask(qemu: RawQemu, command: str) -> dict[str, object]:
    qemu.agent.send(json.dumps({"execute": command}).encode() + b"\n")
    reply: dict[str, object] = json.loads(qemu.agent.expect(rb"[^\n]*\n").group())
    return reply


@pytest.mark.parametrize("machine", MACHINES)
def test_tiny_boots_and_obeys_the_power_button_on_every_machine(boot: Boot, machine: str) -> None:
    qemu = boot(machine=machine)
    qemu.qmp.execute("system_powerdown")
    qemu.console.expect(rb"POWER-BUTTON\r\nOFF\r\n")
    shutdown = qemu.qmp.wait_event("SHUTDOWN")
    assert shutdown["data"] == {"guest": True, "reason": "guest-shutdown"}
    assert qemu.wait() == 0


def test_greeting_tells_memory_initrd_and_command_line(start: Boot, accel: tuple[str, ...], tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(bytes(4321))
    kernel = ("-kernel", tiny.IMAGE, "-initrd", str(initrd), "-append", "one  two=2")
    qemu = start(*MACHINES["q35"], *accel, *kernel)
    greeting = rb"\r\nKVMCTL-TINY boot=K memk=(\d+) pm=0600 boots=none initrd=4321 cmdline=one  two=2\r\nREADY\r\n"
    memory = int(qemu.console.expect(greeting)[1])
    assert 15 * 1024 < memory < 16 * 1024


@pytest.mark.parametrize("device", ["virtio-blk-pci", "ide-hd"])
def test_boot_counter_on_the_disk_survives_the_machine(start: Boot, tmp_path: Path, device: str) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(Path(tiny.IMAGE).read_bytes().ljust(1 << 20, b"\0"))
    for boots in (1, 2):
        blockdev = ("-blockdev", f"driver=file,node-name=disk,filename={disk}")
        qemu = start("-M", "q35", *blockdev, "-device", f"{device},drive=disk")
        qemu.console.expect(rb"boot=D memk=\d+ pm=0600 boots=%d\r\nREADY" % boots)
        qemu.console.send(Key.POWER_OFF.encode())
        assert qemu.wait() == 0
    assert disk.read_bytes()[63 * 512 :][:8] == b"KVMC\2\0\0\0"


def test_count_bumps_the_counter_of_a_running_machine(start: Boot, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(Path(tiny.IMAGE).read_bytes().ljust(1 << 20, b"\0"))
    qemu = start("-M", "q35", "-drive", f"file={disk},format=raw,if=virtio")
    qemu.console.expect(READY)
    qemu.console.send(Key.COUNT.encode())
    qemu.console.expect(rb" boots=2\r\n")


def test_reset_boots_again(boot: Boot) -> None:
    qemu = boot()
    for key in (Key.RESET, Key.TRIPLE_FAULT):
        qemu.console.send(key.encode())
        assert qemu.qmp.wait_event("RESET")["data"] == {"guest": True, "reason": "guest-reset"}
        qemu.console.expect(READY)


def test_reset_works_on_microvm(boot: Boot) -> None:
    qemu = boot(machine="microvm")
    qemu.console.send(Key.RESET.encode())
    qemu.qmp.wait_event("RESET")
    qemu.console.expect(READY)


def test_panic_is_reported_and_the_guest_goes_on(boot: Boot) -> None:
    qemu = boot("", "-device", "pvpanic", "-action", "panic=none")
    qemu.console.send(Key.PANIC.encode())
    assert qemu.qmp.wait_event("GUEST_PANICKED")["data"]["action"] == "run"
    qemu.console.expect(rb"PANIC\r\n")
    qemu.console.send(b"?")
    qemu.console.expect(rb"<\?>\r\n")


def test_exit_ends_qemu_with_a_status(boot: Boot) -> None:
    qemu = boot("", *EXIT_DEVICE)
    qemu.console.send(Key.EXIT.encode())
    assert qemu.wait() == tiny.EXIT_STATUS


def test_exit_word_chooses_the_status(boot: Boot) -> None:
    qemu = boot("offline exit=63 panic", *EXIT_DEVICE)
    assert qemu.wait() == 127


def test_unknown_keys_are_echoed(boot: Boot) -> None:
    qemu = boot()
    qemu.console.send(b"a,Z")
    qemu.console.expect(rb"<a>\r\n<,>\r\n<Z>\r\n")


def test_deaf_guest_ignores_the_power_button_until_it_hears_again(boot: Boot) -> None:
    qemu = boot("console=ttyS0 deaf quiet")
    qemu.console.expect(rb"DEAF\r\n")
    qemu.qmp.execute("system_powerdown")
    sync(qemu, 1)
    sync(qemu, 2)  # it has looked at the button between the two answers
    assert qemu.console.unread() == b""
    qemu.console.send(Key.DEAFEN.encode())
    qemu.console.expect(rb"HEARING\r\nPOWER-BUTTON\r\nOFF\r\n")
    assert qemu.wait() == 0


def test_hung_guest_answers_nothing_and_runs_on(boot: Boot) -> None:
    qemu = boot("hang")
    qemu.qmp.execute("system_powerdown")
    assert qemu.qmp.execute("query-status")["status"] == "running"
    assert qemu.console.unread() == b""


def test_uptime_stands_still_while_paused(boot: Boot) -> None:
    qemu = boot()

    def uptime() -> int:
        qemu.console.send(Key.UPTIME.encode())
        return int(qemu.console.expect(rb"uptime=(\d+)\r\n")[1])

    before = uptime()
    assert any(uptime() > before for _ in range(10_000))
    qemu.qmp.execute("stop")
    qemu.console.send(Key.UPTIME.encode())
    assert qemu.qmp.execute("query-status")["status"] == "paused"
    assert qemu.console.unread() == b""
    qemu.qmp.execute("cont")
    qemu.console.expect(rb"uptime=\d+\r\n")


def test_write_prints_lines_until_the_next_character(boot: Boot) -> None:
    qemu = boot("write")
    qemu.console.expect(rb"line=1\r\nline=2\r\n")
    qemu.console.expect(rb"line=200\r\n")
    qemu.console.send(b"!")
    qemu.console.expect(rb"<!>\r\n$")


def test_agent_greets_and_describes_itself(boot: Boot) -> None:
    qemu = boot()
    qemu.agent.send(b"half a request without an end")
    sync(qemu, 1)
    sync(qemu, 987654321)
    assert ask(qemu, "guest-ping") == {"return": {}}
    info = ask(qemu, "guest-info")["return"]
    assert isinstance(info, dict)
    assert {command["name"] for command in info["supported_commands"]} >= {"guest-ping", "guest-shutdown"}
    assert ask(qemu, "guest-exec")["error"]["class"] == "CommandNotFound"  # type: ignore[index]


@pytest.mark.parametrize(("mode", "reason"), [("powerdown", "guest-shutdown"), ("reboot", "guest-reset")])
def test_agent_shuts_down_and_reboots(boot: Boot, mode: str, reason: str) -> None:
    qemu = boot("", "-action", "reboot=shutdown")
    qemu.agent.send(json.dumps({"execute": "guest-shutdown", "arguments": {"mode": mode}}).encode() + b"\n")
    assert qemu.qmp.wait_event("SHUTDOWN")["data"]["reason"] == reason
    assert qemu.wait() == 0


def test_hostile_agents_are_silent_talk_nonsense_or_never_stop(boot: Boot) -> None:
    silent = boot("agent=silent")
    silent.agent.send(b'{"execute": "guest-ping"}\n')
    silent.console.send(b"?")
    silent.console.expect(rb"<\?>")
    assert silent.agent.unread() == b""

    garbage = boot("agent=garbage")
    garbage.agent.send(b'{"execute": "guest-ping"}\n')
    garbage.agent.expect(rb"no JSON \{\]\n")

    flood = boot("agent=flood")
    flood.agent.send(b'{"execute": "guest-ping"}\n')
    flood.agent.expect(rb"A{10000}")


async def test_agent_client_and_guest_understand_each_other(boot: Boot) -> None:
    qemu = boot()
    agent = Agent(qemu.agent.socket.dup)
    await agent.ping()
    info = await agent.info()
    assert info.version == "tiny"
    assert "guest-shutdown" in info.commands
    with pytest.raises(AgentError) as caught:
        await run(agent, ["true"])
    assert caught.value.error_class == "CommandNotFound"
    await agent.shut_down()
    assert qemu.wait() == 0


@pytest.mark.parametrize(
    ("mode", "error"), [("silent", DeadlineExceeded), ("garbage", DeadlineExceeded), ("flood", KvmctlError)]
)
async def test_agent_client_is_not_impressed_by_hostile_guests(boot: Boot, mode: str, error: type[KvmctlError]) -> None:
    qemu = boot(f"agent={mode}")
    with pytest.raises(error):
        await Agent(qemu.agent.socket.dup, patience=0.3).ping()
