"""Programs that tests run as processes of their own, because they are to be killed, to lose privileges or to race."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]

PRELUDE = """
import asyncio, os, sys
import kvmctl
from kvmctl.spec.load import from_mapping

def spec(*, cmdline="", **tables):
    return {"memory": "16MiB", "balloon": False, "rng": False, "agent": {"transport": "serial"},
            "firmware": "qboot.rom", "boot": {"kernel": "builtin:tiny", "cmdline": cmdline}, **tables}

def tiny(name="web", **tables):
    return from_mapping({"name": name, **spec(**tables)}, source=f"{name}.toml", base=os.getcwd())

async def start(machine):
    async with await kvmctl.start(machine) as vm:
        return vm.pid
"""

AS_NOBODY = """
# Everything is imported by now: the interpreter itself may lie where nobody can read it.
import kvmctl.image.holders
kvmctl.prepare(tiny()), kvmctl.start
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
"""

START_OF_SEVERAL = """
async def several():
    for name in sys.argv[1:]:
        await start(tiny(name))
asyncio.run(several())
"""

ONE_START = """
try:
    print(asyncio.run(start(tiny())))
except kvmctl.KvmctlError as error:
    print(type(error).__name__, error)
"""

FAIL = """
import errno
import psutil
from itertools import count

# The thing that is asked of the system when the count is down to nothing fails.
ARMED = [0]

def fail(event, args):
    # But where socket.socketpair, and subprocess when it opens its pipes, would leak themselves.
    if ARMED[0] and event != "socket.__new__" and not (event == "open" and isinstance(args[0], int)):
        ARMED[0] -= 1
        if not ARMED[0]:
            raise KeyboardInterrupt if "interrupt" in sys.argv else OSError(errno.EIO, "injected")
"""

_FORK = """
import errno
import psutil
from itertools import count
import kvmctl.runtime.quickraise  # what is imported later would count as steps

asyncio.run(kvmctl.create_template("small", tiny(), until="console:^READY"))
kvmctl.fork_quickly, kvmctl.list_machines
RUNTIME = os.environ["KVMCTL_RUNTIME_DIR"]

def check(step):
    \"\"\"Whether the fork is there; else nothing may be left of it.\"\"\"
    found = kvmctl.list_machines()
    assert [machine.state for machine in found] in ([], ["running"]), (step, found)
    if found:  # it had been let go for good
        kvmctl.kill("web")
        kvmctl.remove("web")
    left = [p.pid for p in psutil.process_iter(["cmdline"]) if f"{RUNTIME}/web" in " ".join(p.info["cmdline"] or [])]
    assert not left, (step, left)
    assert not os.listdir(RUNTIME), (step, os.listdir(RUNTIME))
    assert not kvmctl.list_templates()[0].in_use, step
    return bool(found)
"""

UNTIL_KILLED = """
def run_until(step):
    \"\"\"Do it `once` in a child that is killed at the `step`-th thing it asks of the system.\"\"\"
    child = os.fork()
    if child == 0:
        seen = count(1)
        sys.addaudithook(lambda event, args: os.kill(os.getpid(), 9) if next(seen) == step else None)
        once()
        os._exit(0)
    return os.waitpid(child, 0)[1]

for step in count(1):
    status = run_until(step)
    check(step)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        break
"""

FORK_KILLED_AT_EVERY_STEP = (
    _FORK
    + """
def once():
    assert kvmctl.fork_quickly("small", name="web")
"""
    + UNTIL_KILLED
    + """
print("steps", step)
"""
)

FORK_FAILING_AT_EVERY_STEP = (
    _FORK
    + FAIL
    + """

def attempt(step):
    \"\"\"Fork; the `step`-th thing that is asked of the system fails. Whether it came to that.\"\"\"
    ARMED[0] = step
    try:
        kvmctl.fork_quickly("small", name="web")
    except (KeyboardInterrupt, OSError, kvmctl.KvmctlError) as error:
        assert isinstance(error, KeyboardInterrupt) is ("interrupt" in sys.argv), error
        return True
    was_there, ARMED[0] = not ARMED[0], 0
    return was_there

attempt(0)
check(0)
sys.addaudithook(fail)
before = os.listdir("/proc/self/fd")
for step in count(1):
    if not attempt(step):
        break
    check(step)
    assert os.listdir("/proc/self/fd") == before, (step, before, os.listdir("/proc/self/fd"))
check(step)
print("steps", step)
"""
)


def run_script(
    script: str,
    *words: str,
    env: Mapping[str, str] | None = None,
    wrap: tuple[str, ...] = (),
    seconds: float = 120,
) -> str:
    """What `script` prints, run after PRELUDE in a process of its own; it fails the test by failing."""
    result = subprocess.run(
        [*wrap, sys.executable, "-W", "error", "-c", PRELUDE + script, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        env=env,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def start_script(script: str, *words: str) -> subprocess.Popen[str]:
    """`run_script` that does not wait; whose script may, for the end of its stdin, which `communicate` closes."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PRELUDE + script, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_killed(script: str) -> None:
    """Run `script` in a process of its own, in which it has itself killed."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
