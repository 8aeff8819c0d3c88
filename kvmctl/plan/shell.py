"""A plan as text for people: its options as they are, and a shell script that does without a launcher.

kvmctl hands QEMU open sockets, taps and files. A script can't, so in it QEMU opens them by their paths, and what only a
launcher can serve is left out: the private monitor, the journal, and the halt before the first instruction.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from posixpath import dirname
from shlex import join, quote
from typing import Final, assert_never

from kvmctl.plan.guest import MakeKeys, TellGuest
from kvmctl.plan.layers import AddLayer, CopyImage
from kvmctl.plan.model import (
    CopyNvram,
    CopySecret,
    CreateImage,
    CreateOverlay,
    Listen,
    MakeFifos,
    OpenFile,
    Plan,
    QmpStep,
    Step,
    StoreSecret,
    Tap,
)
from kvmctl.plan.option import Option, Value, descriptor_names, explanation, render_option
from kvmctl.plan.paths import ImagePaths

_REDIRECTIONS: Final = {"read": "<", "write": "<>", "append": ">>"}
_HANDED_OVER: Final = frozenset({"fd", "fds", "vhostfd", "vhostfds"})


def readable(plan: Plan) -> list[tuple[list[str], list[str]]]:
    """The words of every option and why it is there, a line each reason; descriptors, which have no numbers yet, by
    name: ``fd=<qmp>``."""
    names = {name: f"<{name}>" for option in plan.options for name in descriptor_names((option.lead, option.body))}
    return [(render_option(option, names), explanation(option)) for option in plan.options]


def shell_script(plan: Plan) -> str:
    """Commands for a POSIX shell that run the machine in the foreground, its monitor and consoles on sockets."""
    sockets = [source for source in plan.fds if isinstance(source, Listen)]
    files = [source for source in plan.fds if isinstance(source, OpenFile)]
    taps = [source for source in plan.fds if isinstance(source, Tap)]
    lines = [f"# {plan.name}, but for what only kvmctl can hand over: the journal, its own monitor, the lock."]
    lines += [f"# console: socat -,rawer UNIX-CONNECT:{quote(console.socket)}" for console in plan.consoles]
    lines += [f"# then, on the monitor: {_command(step.execute, step.arguments)}" for step in _told(plan, taps)]
    lines += [f"# left out, for {item.program} is started with QEMU: {item.key}" for item in plan.helpers]
    lines += [f"mkdir -p -m 700 {quote(folder)}" for folder in dict.fromkeys(dirname(item.path) for item in sockets)]
    lines += [line for step in plan.steps for line in _step_lines(step)]
    lines += [line for tap in taps for line in _tap_lines(tap)]
    numbers = {file.fd: number for number, file in enumerate(files, start=3)}
    words = [join([*plan.wrapper, plan.qemu])]
    words += [join(render_option(option, numbers)) for option in _standalone(plan)]
    words += [f"{numbers[file.fd]}{_REDIRECTIONS[file.mode]}{quote(file.path)}" for file in files]
    return "\n".join([*lines, " \\\n  ".join(words)])


def _told(plan: Plan, taps: list[Tap]) -> Iterator[QmpStep]:
    """What the monitor is told, with the taps opened by QEMU itself."""
    owners = {name: tap for tap in taps for name in tap.fds}
    for step in (*plan.before_run, *plan.after_renewal):
        fds = list(descriptor_names(step.arguments))
        is_tap = bool(fds) and fds[0] in owners
        yield step._replace(arguments=_opened_tap(step.arguments, owners[fds[0]])) if is_tap else step


def _standalone(plan: Plan) -> Iterator[Option]:
    """The options, with what a launcher would hand over opened by QEMU, and without what only a launcher can serve."""
    paths = {source.fd: source.path for source in plan.fds if isinstance(source, Listen)}
    taps = {name: source for source in plan.fds if isinstance(source, Tap) for name in source.fds}
    served = {option.body["id"] for option in plan.options if option.flag == "chardev" and _is_served(option, paths)}
    for option in plan.options:
        fds = list(descriptor_names((option.lead, option.body)))
        match option.flag:
            case "S":
                continue
            case "chardev" if option.body["id"] in served:
                continue
            case "mon" | "object" | "device" if option.body.get("chardev") in served:
                continue
            case "chardev" if fds and fds[0] in paths:
                body = {"path" if key == "fd" else key: value for key, value in option.body.items()}
                yield option._replace(body=body | {"path": paths[fds[0]]})
            case "netdev" if fds and fds[0] in taps:
                yield option._replace(body=_opened_tap(option.body, taps[fds[0]]))
            case _:
                yield option


def _is_served(option: Option, paths: Mapping[str, str]) -> bool:
    """Whether the other end of a stream is the launcher itself: the socket pair and the journal."""
    fds = list(descriptor_names(option.body))
    return option.lead == "stdio" or bool(fds and fds[0] not in paths)


def _opened_tap(body: Mapping[str, Value], tap: Tap) -> dict[str, Value]:
    """A ``-netdev tap`` that opens its interface itself, and leaves setting it up to the commands before."""
    opened = {key: value for key, value in body.items() if key not in _HANDED_OVER}
    if len(tap.fds) > 1:
        opened["queues"] = len(tap.fds)
    return opened | {"ifname": _tap_name(tap), "script": "no", "downscript": "no"}


def _tap_name(tap: Tap) -> str:
    # A name has 15 bytes; without one the kernel would choose, and the commands could not say which.
    return tap.device or f"kvmctl-{tap.fds[0]}"[:15]


def _tap_lines(tap: Tap) -> Iterator[str]:
    name = quote(_tap_name(tap))
    queues = " multi_queue" if len(tap.fds) > 1 else ""
    yield f"[ -e /sys/class/net/{name} ] || ip tuntap add dev {name} mode tap{queues}"
    if tap.bridge is not None:
        yield f"ip link set dev {name} master {quote(tap.bridge)}"
    yield f"ip link set dev {name} up"


def _step_lines(step: Step) -> Iterator[str]:
    if isinstance(step, MakeKeys | TellGuest):
        yield from _told_lines(step)
    else:
        yield from _file_lines(step)


def _told_lines(step: MakeKeys | TellGuest) -> Iterator[str]:
    """What a guest is told is no line of a script: it is to be there from a start by kvmctl."""
    directory = quote(step.directory)
    message = quote(f"{step.directory} is missing: start the machine once by kvmctl, which makes it")
    yield f"[ -d {directory} ] || {{ echo {message} >&2; exit 1; }}"


def _file_lines(
    step: CreateImage | CreateOverlay | CopyNvram | StoreSecret | CopySecret | MakeFifos | AddLayer | CopyImage,
) -> Iterator[str]:
    path = quote(step.path)
    yield f"mkdir -p -m 700 {quote(dirname(step.path))}"
    match step:
        case CreateImage():
            yield f"[ -e {path} ] || qemu-img create -q -f {step.format} {path} {step.size}"
        case CreateOverlay():
            yield f"[ -e {path} ] || {_overlay_command(step)}"
        case CopyNvram():
            source = f"-f {step.template_format} -O qcow2 {quote(step.template)}"
            yield f"[ -e {path} ] || qemu-img convert {source} {path}"
        case StoreSecret():
            yield f'( umask 077; printf %s "${step.variable}" >{path} )'
        case CopySecret():
            yield f"( umask 077; tr -d '\\r\\n' <{quote(step.source)} >{path} )"
        case MakeFifos():
            fifos = f"{quote(step.path + '.in')} {quote(step.path + '.out')}"
            yield f"rm -f {fifos}; mkfifo -m 600 {fifos}"
        case AddLayer():
            backing = f"-F {step.backing_format} -b {quote(step.backing)}"
            yield f"[ -e {path} ] || qemu-img create -q -f qcow2 {backing} {path}"
        case CopyImage():
            yield f"[ -e {path} ] || cp {quote(step.source)} {path}"
        case _:
            assert_never(step)


def _overlay_command(step: CreateOverlay) -> str:
    """Makes an overlay of whatever image bears the name then, by its record: JSON with a key a line."""
    paths = ImagePaths(step.store)
    record = quote(paths.record(step.image))

    def known(key: str) -> str:
        return f'$(sed -n \'s/^ "{key}": "*\\([0-9a-z]*\\).*/\\1/p\' {record})'

    size = "" if step.size is None else f' "$(( {known("size")} > {step.size} ? {known("size")} : {step.size} ))"'
    base = f'-b {quote(paths.blobs)}/"{known("digest")}" -F "{known("format")}"'
    return f"qemu-img create -q -f qcow2 {base} {quote(step.path)}{size}"


def _command(execute: str, arguments: Mapping[str, object]) -> str:
    return json.dumps({"execute": execute, "arguments": dict(arguments)})
