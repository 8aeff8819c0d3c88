"""A disk that is full while a start writes: said clearly, and all is as it was before."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from kvmctl import Roots

from .scripts import run_script

pytestmark = [pytest.mark.qemu]

FILL = """
def fill(directory):
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/.filler", "wb", buffering=0) as filler:
        try:
            while filler.write(bytes(4096)):
                pass
        except OSError:
            pass

def names(directory):
    return sorted(path for path, _, _ in os.walk(directory)), sorted(n for _, _, ns in os.walk(directory) for n in ns)

STATE, RUNTIME = os.environ["KVMCTL_STATE_DIR"], os.environ["KVMCTL_RUNTIME_DIR"]

def refused(start):
    try:
        start()
    except kvmctl.KvmctlError as error:
        print(error, error.detail)
    else:
        raise SystemExit("it was started")
"""


def run_in_small(directory: str, script: str, *, size: str = "64k") -> str:
    """What `script` prints where `directory` is a file system of that size."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this host lets nobody mount a small file system: unshare -rm fails")
    os.makedirs(directory)
    small = f"mount -t tmpfs -o size={size},mode=700 none {directory} && exec "
    return run_script(FILL + script, wrap=("unshare", "-rm", "sh", "-c", f'{small} "$@"', "sh"))


def test_a_full_runtime_directory_is_said_and_nothing_is_left(roots: Roots) -> None:
    script = """
prepared = kvmctl.prepare(tiny())
fill(RUNTIME)
refused(lambda: asyncio.run(start(tiny())))
assert os.listdir(RUNTIME) == [".filler"], os.listdir(RUNTIME)
"""
    assert "No space left on device" in run_in_small(roots.runtime, script)


@pytest.mark.parametrize("how", ["start", "start_detached"])
def test_no_space_for_the_pinned_machine_type_is_said_and_nothing_is_left(roots: Roots, how: str) -> None:
    script = f"""
kvmctl.create("web", spec())
fill(STATE)
before = names(STATE)
refused(lambda: asyncio.run(start("web")) if {how!r} == "start" else kvmctl.start_detached("web"))
assert names(STATE) == before, (names(STATE), before)
assert os.listdir(RUNTIME) == []
"""
    said = run_in_small(roots.state, script)
    assert "machine-type" in said
    assert "No space left on device" in said


def test_no_space_for_uefi_variables_is_said_and_nothing_is_left(roots: Roots) -> None:
    script = """
refused(lambda: asyncio.run(start(tiny(firmware="uefi"))))
assert names(STATE) == ([STATE], []), names(STATE)
assert os.listdir(RUNTIME) == []
"""
    said = run_in_small(roots.state, script)
    assert "nvram.qcow2" in said
    assert "No space left on device" in said


def test_no_space_for_the_history_is_said_and_the_last_run_is_still_known(roots: Roots) -> None:
    script = """
kvmctl.create("web", spec())
asyncio.run(start("web"))
kvmctl.kill("web")
fill(STATE)
before = names(STATE), names(RUNTIME)
refused(lambda: asyncio.run(start("web")))
assert (names(STATE), names(RUNTIME)) == before, (names(STATE), names(RUNTIME), before)
(found,) = kvmctl.list_machines(include_stopped=True)
print(found.state, found.exit.reason, found.exit.detail)
"""
    said = run_in_small(roots.state, script)
    assert "history.jsonl" in said
    assert "No space left on device" in said
    assert "stopped killed kvmctl kill" in said
    shutil.rmtree(os.path.join(roots.runtime, "web"))
