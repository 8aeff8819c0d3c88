"""Programs that start a machine again and again, killed at, or failing at, one thing after the other that a start asks
of the system.

Their words say what is started and how: ``made`` has disks, UEFI variables, keys and a pin to be made first, ``helped``
a helper beside QEMU, ``again`` comes after an earlier run, ``quick`` is what `kvmctl start` does.
"""

from __future__ import annotations

from .scripts import FAIL, UNTIL_KILLED

_STARTS = """
import psutil, shutil
from itertools import count
from pathlib import Path
from kvmctl.runtime.begin import begin
from kvmctl.runtime.start import start_plan

RUN, STATE = Path(os.environ["KVMCTL_RUNTIME_DIR"]), Path(os.environ["KVMCTL_STATE_DIR"])
OWN = STATE.parent / "own"  # where the user keeps disks
OWN.mkdir()
IS_MADE = "made" in sys.argv
disks = [{"size": "1MiB"}, {"path": f"{OWN}/new/disk.img", "format": "raw", "size": "1MiB"}]
kvmctl.create("web", spec(**({"disks": disks, "firmware": "uefi", "guest": {"hostname": "web"}} if IS_MADE else {})))
prepared = kvmctl.prepare("web")
if "helped" in sys.argv:
    import dataclasses
    import kvmctl.runtime.helpers
    from tests.runtime.helped import with_helper
    prepared = dataclasses.replace(prepared, plan=with_helper(prepared.plan, prepared.paths))

async def let_go():
    async with await start_plan(prepared.plan, prepared.paths, is_defined=IS_MADE):
        pass

def once():
    if "quick" in sys.argv:
        kvmctl.start_detached("web")
    else:
        asyncio.run(let_go())

def kept(directory):
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != "lock"}

def clear():
    kvmctl.kill("web")
    for path in (RUN / "web", STATE / "machines", OWN / "new"):
        shutil.rmtree(path, ignore_errors=True)

once()  # what is imported later would count as steps
made = {path.name for directory in (STATE, OWN) for path in directory.rglob("*")}
if IS_MADE:
    assert made >= {"disk0.qcow2", "disk.img", "nvram.qcow2", "machine-type", "id_ed25519", "seed.iso"}, made
elif "quick" not in sys.argv:
    assert not made, made
clear()
LAST = {}

def run_before():
    \"\"\"The earlier run, if there is to be one.\"\"\"
    if "again" in sys.argv:
        once()
        kvmctl.kill("web")
        LAST.update(kept(RUN))

run_before()
MINE = {*kept(STATE), *kept(OWN)}
HISTORY = str(STATE / "machines/web/history.jsonl")

def check(step):
    \"\"\"Whether the machine runs; else all has to be as it was before.\"\"\"
    (found,) = kvmctl.list_machines(include_stopped=True)
    assert found.state in ("running", "stopped"), (step, found)
    if found.state == "running":  # it had been let go for good
        clear()
        run_before()
        return True
    assert not processes(), (step, processes())
    assert kept(RUN) == LAST, (step, {*kept(RUN)} ^ {*LAST})
    assert LAST or not RUN.exists() or not os.listdir(RUN), (step, os.listdir(RUN))
    assert (found.exit is None) == (not LAST), (step, found)
    assert {*kept(STATE), *kept(OWN)} - {HISTORY} == MINE, (step, {*kept(STATE), *kept(OWN)} ^ MINE)
    assert not os.listdir(OWN), step
    return False

def processes():
    \"\"\"QEMUs, programs that make images, and helpers.\"\"\"
    commands = [(p.pid, " ".join(p.info["cmdline"] or [])) for p in psutil.process_iter(["cmdline"])]
    return [(pid, words) for pid, words in commands if str(STATE.parent) in words]
"""

START_KILLED_AT_EVERY_STEP = (
    _STARTS
    + UNTIL_KILLED
    + """
kvmctl.remove("web")
print("steps", step)
"""
)

START_FAILING_AT_EVERY_STEP = (
    _STARTS
    + FAIL
    + """
def attempt(step):
    \"\"\"Start; the `step`-th thing that is asked of the system fails. Whether it came to that.\"\"\"
    beginning, ARMED[0] = None, step
    try:
        if "quick" in sys.argv:
            once()
        else:  # asyncio itself would leak
            beginning = begin(prepared.plan, prepared.paths, is_captive=False, is_defined=IS_MADE)
    except (KeyboardInterrupt, OSError, kvmctl.KvmctlError) as error:
        assert isinstance(error, KeyboardInterrupt) is ("interrupt" in sys.argv), error
        return True
    was_there, ARMED[0] = not ARMED[0], 0
    if beginning is not None:
        beginning.fail(KeyboardInterrupt())
    return was_there

sys.addaudithook(fail)
before = os.listdir("/proc/self/fd")
for step in count(1):
    was_there = attempt(step)
    runs = check(step)
    assert os.listdir("/proc/self/fd") == before, (step, before, os.listdir("/proc/self/fd"))
    if not was_there:
        break
assert runs is ("quick" in sys.argv)
kvmctl.remove("web")
print("steps", step)
"""
)
