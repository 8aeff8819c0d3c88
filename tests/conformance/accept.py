"""Offers one spec to the real QEMU, paused: ``accept.py SPEC DIRECTORY``, in a network namespace of its own.

Everything the spec names is made in DIRECTORY: images, kernels, bridges. Prints what QEMU said as JSON. QEMU refuses
deprecated and unstable input, and so warns of nothing that a later version would remove.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/spec")]

from qemu_process import running  # noqa: E402

from kvmctl.compile import compile_plan  # noqa: E402
from kvmctl.guest import tiny  # noqa: E402
from kvmctl.host.kvm import probe  # noqa: E402
from kvmctl.host.qemu import find_qemu, qemu_facts  # noqa: E402
from kvmctl.image import qemuimg  # noqa: E402
from kvmctl.plan.model import Plan, Tap  # noqa: E402
from kvmctl.plan.paths import Roots  # noqa: E402
from kvmctl.runtime import files, steps  # noqa: E402
from kvmctl.spec.load import parse  # noqa: E402


def main() -> None:
    """Does it."""
    spec, directory = (Path(word) for word in sys.argv[1:])
    plan = plan_in(spec, directory)
    make_bridges(plan)
    files.make_private_dir(str(directory / "runtime" / plan.name))
    with ExitStack() as undo:
        steps.carry_out(plan, undo)
        make_inputs(plan)
        with running(plan) as qemu:
            status = qemu.command("query-status")["status"]
            for step in plan.before_run:
                qemu.command(step.execute, **step.arguments)
            sys.stdout.write(json.dumps({"status": status, "log": qemu.log.read_text()}))


def plan_in(spec: Path, directory: Path) -> Plan:
    """The plan of `spec` as if it lay in `directory`, on this host."""
    machine = parse(spec.read_text(), source=spec.name, base=str(directory))
    roots = Roots(*(str(directory / kind) for kind in ("config", "state", "runtime", "cache")))
    path = find_qemu(machine.qemu, env=os.environ)
    qemu = qemu_facts(path, cache=os.environ.get("ACCEPT_CACHE"), env=os.environ)
    return compile_plan(machine, host=probe(), qemu=qemu, paths=roots.machine(machine.name))


def make_bridges(plan: Plan) -> None:
    """The bridges the plan wants, in this namespace."""
    for bridge in {source.bridge for source in plan.fds if isinstance(source, Tap) and source.bridge}:
        subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
        subprocess.run(["ip", "link", "set", bridge, "up"], check=True)


def make_inputs(plan: Plan) -> None:
    """What the plan wants to be there and nothing has made: images of the right format, and a kernel that is one."""
    formats = {disk.path: disk.format for disk in plan.disks}
    for item in plan.inputs:
        path = Path(item.path)
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if image_format := formats.get(item.path):
            program = qemuimg.find_qemu_img(plan.qemu)
            qemuimg.create(program, item.path, image_format=image_format, size=1 << 20)
        else:
            shutil.copy(Path(tiny.__file__).with_name("tiny.bin"), path)


if __name__ == "__main__":
    main()
