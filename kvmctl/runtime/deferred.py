"""Doors to modules that are seldom needed, or whose libraries (pyroute2, psutil, tarfile, yaml) are slow to import:
paid for by who goes through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from kvmctl.errors import KvmctlError
from kvmctl.runtime.store import find_roots

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from inotify_simple import INotify

    from kvmctl.errors import NotFound
    from kvmctl.guest.agent import Agent
    from kvmctl.guest.copy import Copied
    from kvmctl.guest.info import GuestInfo
    from kvmctl.guest.port import Connect
    from kvmctl.guest.progress import OnProgress
    from kvmctl.guest.upkeep import Trimmed
    from kvmctl.image.hold import Hold
    from kvmctl.image.holders import Holder
    from kvmctl.plan.facts import ImageFacts
    from kvmctl.plan.guest import MakeKeys, TellGuest
    from kvmctl.plan.helper import Helper
    from kvmctl.plan.layers import AddLayer
    from kvmctl.plan.model import CreateOverlay, Plan, Tap, VhostNet
    from kvmctl.plan.paths import MachinePaths, Roots
    from kvmctl.plan.template_paths import TemplatePaths
    from kvmctl.runtime.events import Event, Exit
    from kvmctl.runtime.helpers import RunningHelper
    from kvmctl.runtime.made import Made
    from kvmctl.runtime.neighbours import Neighbour
    from kvmctl.runtime.process import Process
    from kvmctl.runtime.watch import Watch
    from kvmctl.verdict import Verdict


def open_tap(source: Tap) -> list[int]:
    """`kvmctl.runtime.tap.open_tap`."""
    descriptors: list[int] = import_module("kvmctl.runtime.tap").open_tap(source)
    return descriptors


def open_vhost_net(source: VhostNet) -> list[int]:
    """`kvmctl.runtime.tap.open_vhost_net`."""
    descriptors: list[int] = import_module("kvmctl.runtime.tap").open_vhost_net(source)
    return descriptors


def available_memory() -> int:
    """Bytes that programs can have without anything being swapped out."""
    return int(import_module("psutil").virtual_memory().available)


def find_client(path: str) -> int | None:
    """`kvmctl.runtime.peers.find_client`."""
    pid: int | None = import_module("kvmctl.runtime.peers").find_client(path)
    return pid


def is_stopped(pid: int) -> bool:
    """`kvmctl.runtime.peers.is_stopped`."""
    return bool(import_module("kvmctl.runtime.peers").is_stopped(pid))


def find_holders(path: str) -> list[Holder]:
    """`kvmctl.image.holders.find_holders`."""
    holders: list[Holder] = import_module("kvmctl.image.holders").find_holders(path)
    return holders


def find_listener(port: int) -> Holder | None:
    """`kvmctl.image.holders.find_listener`."""
    holder: Holder | None = import_module("kvmctl.image.holders").find_listener(port)
    return holder


def make_keys(step: MakeKeys, made: Made) -> None:
    """`kvmctl.runtime.sshkeys.make_keys`."""
    import_module("kvmctl.runtime.sshkeys").make_keys(step, made)


def tell_guest(step: TellGuest, made: Made) -> None:
    """`kvmctl.runtime.firstboot.tell_guest`."""
    import_module("kvmctl.runtime.firstboot").tell_guest(step, made)


def seed_image(contents: Mapping[str, bytes]) -> bytes:
    """`kvmctl.image.seed.seed_image`."""
    image: bytes = import_module("kvmctl.image.seed").seed_image(contents)
    return image


def cloud_config_problem(text: str, *, needs_header: bool) -> str:
    """`kvmctl.runtime.cloudconfig.cloud_config_problem`."""
    problem: str = import_module("kvmctl.runtime.cloudconfig").cloud_config_problem(text, needs_header=needs_header)
    return problem


def find_neighbours(macs: Collection[str]) -> list[Neighbour]:
    """`kvmctl.runtime.neighbours.find_neighbours`."""
    found: list[Neighbour] = import_module("kvmctl.runtime.neighbours").find_neighbours(macs)
    return found


def check_overlay(step: CreateOverlay) -> None:
    """`kvmctl.image.overlay.check`."""
    import_module("kvmctl.image.overlay").check(step, catalogue=find_roots().catalogue)


def image_file(step: CreateOverlay) -> str:
    """The file of the image that an overlay is to be made of. Raises ImageMissing."""
    overlay = import_module("kvmctl.image.overlay")
    found: str = overlay.file_of(step, catalogue=find_roots().catalogue)
    return found


def create_overlay(step: CreateOverlay, *, qemu: str, hold: Hold) -> None:
    """`kvmctl.image.overlay.create`."""
    import_module("kvmctl.image.overlay").create(step, qemu=qemu, catalogue=find_roots().catalogue, hold=hold)


def create_image(path: str, *, qemu: str, image_format: str, size: int, hold: Hold) -> None:
    """`kvmctl.image.qemuimg.create`."""
    qemuimg = import_module("kvmctl.image.qemuimg")
    qemuimg.create(qemuimg.find_qemu_img(qemu), path, image_format=image_format, size=size, hold=hold)


def create_layer(step: AddLayer, *, qemu: str, hold: Hold) -> None:
    """`kvmctl.image.qemuimg.create_layer`."""
    qemuimg = import_module("kvmctl.image.qemuimg")
    program = qemuimg.find_qemu_img(qemu)
    qemuimg.create_layer(program, step.path, backing=step.backing, backing_format=step.backing_format, hold=hold)


def copy_nvram(template: str, path: str, *, template_format: str, qemu: str, hold: Hold) -> None:
    """`kvmctl.image.qemuimg.convert`, to qcow2."""
    qemuimg = import_module("kvmctl.image.qemuimg")
    program = qemuimg.find_qemu_img(qemu)
    qemuimg.convert(program, template, path, source_format=template_format, image_format="qcow2", hold=hold)


def explain_exit(name: str, *, source: str, status: int | None, log: str) -> KvmctlError:
    """`kvmctl.runtime.verdict.explain`."""
    error: KvmctlError = import_module("kvmctl.runtime.verdict").explain(name, source=source, status=status, log=log)
    return error


def diagnose(plan: Plan, paths: MachinePaths, events: Sequence[Event], *, end: Exit | None) -> Verdict:
    """`kvmctl.runtime.diagnosis.diagnose`."""
    verdict: Verdict = import_module("kvmctl.runtime.diagnosis").diagnose(plan, paths, events, end=end)
    return verdict


@contextmanager
def judged_start() -> Iterator[None]:
    """An error within has the verdict that `kvmctl.runtime.verdict.judge_start` gives it."""
    try:
        yield
    except KvmctlError as error:
        import_module("kvmctl.runtime.verdict").judge_start(error)
        raise


def address(plan: Plan) -> Plan:
    """`kvmctl.plan.card.address`."""
    addressed: Plan = import_module("kvmctl.plan.card").address(plan)
    return addressed


def unknown_template(paths: TemplatePaths) -> NotFound:
    """`kvmctl.runtime.template.unknown`."""
    error: NotFound = import_module("kvmctl.runtime.template").unknown(paths)
    return error


def digest(path: str) -> str:
    """`kvmctl.runtime.digests.digest`."""
    return str(import_module("kvmctl.runtime.digests").digest(path))


def no_spec(reference: str, roots: Roots) -> NotFound:
    """`kvmctl.runtime.listing.no_spec`."""
    error: NotFound = import_module("kvmctl.runtime.listing").no_spec(reference, roots)
    return error


def image_names(roots: Roots) -> set[str]:
    """`kvmctl.runtime.images.image_names`."""
    names: set[str] = import_module("kvmctl.runtime.images").image_names(roots)
    return names


def image_facts(names: Collection[str], roots: Roots) -> dict[str, ImageFacts]:
    """`kvmctl.runtime.images.image_facts`."""
    facts: dict[str, ImageFacts] = import_module("kvmctl.runtime.images").image_facts(names, roots)
    return facts


def start_helper(helper: Helper, *, env: Mapping[str, str], undo: ExitStack) -> tuple[int, RunningHelper]:
    """`kvmctl.runtime.helpers.start_helper`."""
    started: tuple[int, RunningHelper] = import_module("kvmctl.runtime.helpers").start_helper(
        helper, env=env, undo=undo
    )
    return started


def explain_failure(plan: Plan, helpers: tuple[RunningHelper, ...]) -> KvmctlError | None:
    """`kvmctl.runtime.helpers.explain_failure`."""
    error: KvmctlError | None = import_module("kvmctl.runtime.helpers").explain_failure(plan, helpers)
    return error


async def copy_in(
    agent: Agent, source: str, target: str, *, connect: Connect | None, mark: str, on_progress: OnProgress | None
) -> Copied:
    """`kvmctl.guest.copy.copy_in`."""
    copy = import_module("kvmctl.guest.copy").copy_in
    copied: Copied = await copy(agent, source, target, connect=connect, mark=mark, on_progress=on_progress)
    return copied


async def copy_out(
    agent: Agent, source: str, target: str, *, connect: Connect | None, mark: str, on_progress: OnProgress | None
) -> Copied:
    """`kvmctl.guest.copy.copy_out`."""
    copy = import_module("kvmctl.guest.copy").copy_out
    copied: Copied = await copy(agent, source, target, connect=connect, mark=mark, on_progress=on_progress)
    return copied


async def read_info(agent: Agent) -> GuestInfo:
    """`kvmctl.guest.info.read_info`."""
    info: GuestInfo = await import_module("kvmctl.guest.info").read_info(agent)
    return info


async def set_password(agent: Agent, user: str, password: str, *, crypted: bool) -> None:
    """`kvmctl.guest.upkeep.set_password`."""
    await import_module("kvmctl.guest.upkeep").set_password(agent, user, password, crypted=crypted)


async def set_clock(agent: Agent) -> float:
    """`kvmctl.guest.upkeep.set_clock`."""
    return float(await import_module("kvmctl.guest.upkeep").set_clock(agent))


async def trim(agent: Agent, *, minimum: int) -> list[Trimmed]:
    """`kvmctl.guest.upkeep.trim`."""
    trimmed: list[Trimmed] = await import_module("kvmctl.guest.upkeep").trim(agent, minimum=minimum)
    return trimmed


def watch_lock(path: str) -> INotify:
    """`kvmctl.runtime.agentline.watch_lock`."""
    watch: INotify = import_module("kvmctl.runtime.agentline").watch_lock(path)
    return watch


def watch_journal(paths: MachinePaths) -> Watch:
    """`kvmctl.runtime.watch.Watch` of the machine's journal."""
    watch: Watch = import_module("kvmctl.runtime.watch").Watch(paths.journal)
    return watch


def raise_explained(error: KvmctlError, paths: MachinePaths, process: Process, *, resets: int) -> NoReturn:
    """`kvmctl.runtime.inner.Inner.raise_explained`, of the machine that `process` is, or was."""
    plan = import_module("kvmctl.runtime.attach").read_plan(paths)
    journal = import_module("kvmctl.runtime.journal").Journal(paths)
    vm = import_module("kvmctl.runtime.vm").Vm(plan, paths, process, journal)
    import_module("asyncio").run(vm.raise_explained(error, resets=resets))
    raise error
