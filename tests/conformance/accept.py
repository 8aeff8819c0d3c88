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
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/spec"), str(ROOT / "tests/conformance")]

from golden import FIRMWARES, HOST  # noqa: E402
from qemu_process import running  # noqa: E402

from kvmctl import files  # noqa: E402
from kvmctl.compile import compile_plan  # noqa: E402
from kvmctl.errors import SpecError  # noqa: E402
from kvmctl.guest import tiny  # noqa: E402
from kvmctl.host.identity import find_qemu  # noqa: E402
from kvmctl.host.qemu import qemu_facts  # noqa: E402
from kvmctl.image import qemuimg  # noqa: E402
from kvmctl.image.record import Origin  # noqa: E402
from kvmctl.image.store import Store  # noqa: E402
from kvmctl.plan.guest import Source, TellGuest  # noqa: E402
from kvmctl.plan.model import CreateOverlay, Plan, Tap  # noqa: E402
from kvmctl.plan.paths import ImagePaths, Roots  # noqa: E402
from kvmctl.plan.share import InputDirectory  # noqa: E402
from kvmctl.runtime import steps  # noqa: E402
from kvmctl.runtime.made import Made, unmake  # noqa: E402
from kvmctl.runtime.prepare import look_at_host  # noqa: E402
from kvmctl.spec.load import parse  # noqa: E402

HASH = "$6$saltsalt$0123456789abcdef"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtDDLIXxnAgmyhMF3YXbS3PcyVBYCmwJo4a+HVDUz3c me"
SECRETS = {
    "KQ_VNC_PASSWORD": "secret12",
    "KQ_ROOT_PASSWORD": "secret",
    "KQ_HASH": HASH,
    "KQ_USER_PASSWORD": "secret",
}
"""What the specs take from the environment."""


def main() -> None:
    """Does it."""
    spec, directory = (Path(word) for word in sys.argv[1:])
    try:
        plan = plan_in(spec, directory)
    except HostLacks as lack:
        answer(skip=str(lack))
        return
    os.environ |= SECRETS
    make_network(plan)
    paths = roots_in(directory).machine(plan.name)
    files.make_private_dir(paths.run)
    with ExitStack() as undo:
        undo.callback(unmake, paths, was_held=True)
        make_inputs(plan)
        make_images(plan)
        steps.carry_out(plan, Made(paths))
        with running(plan) as qemu:
            status = qemu.command("query-status")["status"]
            for step in plan.before_run:
                qemu.command(step.execute, **step.arguments)
            answer(status=status, log=qemu.log.read_text())


def answer(**record: str) -> None:
    """Tells the test."""
    sys.stdout.write(json.dumps(record))


class HostLacks(Exception):
    """What keeps a right spec from running on this host."""


def roots_in(directory: Path) -> Roots:
    """The directories of a user who has everything in `directory`."""
    return Roots(*(str(directory / kind) for kind in ("config", "state", "runtime", "cache")))


def plan_in(spec: Path, directory: Path) -> Plan:
    """The plan of `spec` as if it lay in `directory`, for this QEMU: on a host that has everything it must exist."""
    machine = parse(spec.read_text(), source=str(spec), base=str(directory))
    roots = roots_in(directory)
    paths = roots.machine(machine.name)
    qemu = qemu_facts(find_qemu(machine.qemu, env=os.environ), cache=None, env=os.environ)
    compile_plan(machine, host=HOST, qemu=replace(qemu, firmwares=FIRMWARES), paths=paths)
    # It is about the words of the command line; how a kernel without vmx or svm fails is not.
    machine = machine.model_copy(update={"accel": "tcg"})
    try:
        return compile_plan(machine, host=look_at_host(machine, roots=roots), qemu=qemu, paths=paths)
    except SpecError as error:
        raise HostLacks("; ".join(map(str, error.problems))) from error


def make_network(plan: Plan) -> None:
    """The interfaces the plan counts on, in this namespace."""
    commands = ["link set lo up", "route add 224.0.0.0/4 dev lo"]
    for bridge in {source.bridge for source in plan.fds if isinstance(source, Tap) and source.bridge}:
        commands += [f"link add {bridge} type bridge", f"link set {bridge} up"]
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)


def make_inputs(plan: Plan) -> None:
    """What the plan wants to be there and does not make itself: images of the right format, kernels, secrets."""
    formats = {disk.path: disk.format for disk in plan.disks}
    made = {path for step in plan.steps if (path := getattr(step, "path", None))}
    for step in plan.steps:
        if isinstance(step, TellGuest):
            for source in step.first_boot.sources():
                make_source(source)
    for item in plan.inputs:
        path = Path(item.path)
        if path.exists() or item.path in made:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(item, InputDirectory):
            path.mkdir()
        elif image_format := formats.get(item.path):
            program = qemuimg.find_qemu_img(plan.qemu)
            qemuimg.create(program, item.path, image_format=image_format, size=1440 << 10)
        elif path.parent.name == "tls":
            make_certificates(path.parent)
        elif path.parent.name == "secrets":
            path.write_text("secret12")
        else:
            shutil.copy(Path(tiny.__file__).with_name("tiny.bin"), path)


def make_source(source: Source) -> None:
    """What the guest is to be told, as far as it is in a file."""
    if source.kind != "file":
        return
    path = Path(source.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = {"password_hash": HASH, "password": "secret", "ssh_keys": KEY}
    path.write_text(next((text for word, text in texts.items() if word in source.key), "#cloud-config\n{}\n"))


def make_images(plan: Plan) -> None:
    """The images that disks begin as, in the store."""
    for step in plan.steps:
        if isinstance(step, CreateOverlay):
            content = [bytes(1 << 20)]
            Store(ImagePaths(step.store)).add(content, name=step.image, image_format="raw", origin=Origin("nowhere"))


def make_certificates(directory: Path) -> None:
    """An authority and the server's certificate, in the files that QEMU looks for."""
    script = f"""
        cd {directory}
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca-key.pem -out ca-cert.pem
        openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server-key.pem -out server.csr
        openssl x509 -req -days 2 -in server.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -out server-cert.pem
    """
    subprocess.run(["sh", "-ec", script], check=True, capture_output=True)


if __name__ == "__main__":
    main()
