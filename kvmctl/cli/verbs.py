"""The one table of verbs: what ``kvmctl --help`` lists, and where each verb's function is. Imports nothing of kvmctl.

A verb is a plain function annotated for typer. Its module is imported when the verb is asked for and not before, so
that a verb costs what it uses and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Verb:
    """A word of the command line and its function: `attribute` of the module ``kvmctl.cli.<module>``."""

    name: str
    module: str
    attribute: str
    help: str
    """One line for the overview; the function's docstring begins with it, and a full stop."""
    verbs: tuple[Verb, ...] = ()
    """The words that must follow, where this one is a group's; its function does nothing and has the group's help."""


IMAGE: Final = (
    Verb("pull", "image", "pull", "Download images by their names in the catalogue, or by their addresses"),
    Verb("import", "image", "import_", "Take a copy of an image's file into the store"),
    Verb("build", "build", "build", "Build an image from a distribution's packages"),
    Verb("list", "image", "list_", "List the images in the store, or all that can be had"),
    Verb("rm", "image", "rm", "Remove images from the store"),
    Verb("gc", "image", "gc", "Remove what of images nothing needs any more"),
)
"""What follows ``kvmctl image``."""

FAULT: Final = (
    Verb("network", "fault", "network", "Pull a machine's network cable, or put it back"),
    Verb("disk", "fault", "disk", "Let a machine's disk fail, be full or slow, or work again"),
    Verb("stall", "fault", "stall", "Give a machine's CPUs no time for a while"),
    Verb("clock", "fault", "clock", "Set the guest's clock ahead, or back"),
    Verb("nmi", "fault", "nmi", "Send a machine a non-maskable interrupt"),
    Verb("panic", "fault", "panic", "Let the guest's kernel panic"),
)
"""What follows ``kvmctl fault``."""

TEMPLATE: Final = (
    Verb("create", "template", "create", "Boot a machine once and freeze it, to be forked"),
    Verb("list", "template", "list_", "List the templates"),
    Verb("show", "template", "show", "Show what a template was made of, and whether it can be used"),
    Verb("rm", "template", "rm", "Remove templates"),
    Verb("gc", "template", "gc", "Remove the templates that can't be used any more"),
)
"""What follows ``kvmctl template``."""

GROUPS: Final[dict[str, tuple[Verb, ...]]] = {
    "This host": (
        Verb("doctor", "doctor", "doctor", "Say what this host can run, and what to do about the rest"),
        Verb("completion", "completion", "completion", "Print the completion script of a shell"),
    ),
    "Machine specs": (
        Verb("schema", "schema", "schema", "Print the JSON Schema of machine specs"),
        Verb("validate", "validate", "validate", "Check a spec and name every problem in it"),
        Verb("argv", "argv", "argv", "Print the QEMU command line of a machine, and why each option is there"),
        Verb("define", "define", "define", "Keep a spec under its machine's name"),
        Verb("create", "create", "create", "Write and define a spec from a few options"),
        Verb("edit", "define", "edit", "Change a defined machine's spec in an editor"),
        Verb("rm", "define", "rm", "Remove a machine: its spec and everything kvmctl made for it"),
    ),
    "Images": (Verb("image", "image", "image", "Get and keep the disk images that machines begin as", IMAGE),),
    "Running": (
        Verb("run", "run", "run", "Run a machine in the foreground, its console on this terminal"),
        Verb("start", "start", "start", "Start a machine and return"),
        Verb("stop", "stop", "stop", "Ask a machine to power down, and see that it does"),
        Verb("kill", "power", "kill", "End a machine at once, as pulling the plug would"),
        Verb("restart", "restart", "restart", "Stop a machine and start it again, from its spec as it is now"),
        Verb("reset", "power", "reset", "Press the reset button"),
        Verb("pause", "power", "pause", "Halt a machine's CPUs"),
        Verb("resume", "power", "resume", "Let a paused machine go on"),
        Verb("wait", "wait", "wait", "Wait until a machine has come to a state"),
        Verb("fault", "fault", "fault", "Let something go wrong with a machine", FAULT),
    ),
    "Templates": (
        Verb(
            "template", "template", "template", "Machines frozen after their boot: create, list, show, rm, gc", TEMPLATE
        ),
        Verb("fork", "fork", "fork", "Start machines that go on where a template was frozen"),
    ),
    "Looking": (
        Verb("list", "list", "list_", "List the machines that run, or all"),
        Verb("show", "show", "show", "Show all that is known of a machine"),
        Verb("verdict", "verdict", "verdict", "Say what became of a machine, and how one can tell"),
        Verb("logs", "logs", "logs", "Print what a machine's console has said"),
        Verb("events", "events", "events", "Print what happened to a machine, or follow it"),
        Verb("boot", "boot", "boot", "Boot copies of a machine, and say where the time went"),
        Verb("screenshot", "screenshot", "screenshot", "Save a picture of a machine's display"),
    ),
    "Inside": (
        Verb("console", "console", "console", "Attach this terminal to a machine's console"),
        Verb("cp", "cp", "cp", "Copy files and directories into a machine and out of it"),
        Verb("info", "info", "info", "Show what a machine is, or what its guest says of itself"),
        Verb(
            "freeze", "freeze", "freeze", "Freeze a machine's file systems while a command runs here, or until Ctrl-C"
        ),
        Verb("thaw", "freeze", "thaw", "Thaw a machine's file systems, where whoever froze them has not"),
        Verb("trim", "upkeep", "trim", "Give back to the host what a machine's file systems don't use"),
        Verb("sync-time", "upkeep", "sync_time", "Set a machine's clock to this host's"),
        Verb("set-password", "upkeep", "set_password", "Set the password of a user of the guest"),
        Verb("exec", "exec", "exec_", "Run a command inside a machine, through its guest agent or ssh"),
        Verb("ssh", "ssh", "ssh", "Log in to a machine over ssh, or run a command there"),
        Verb("shell", "ssh", "shell", "Open a shell in a machine, on this terminal"),
        Verb(
            "ssh-config", "ssh", "ssh_config", "Print ssh's configuration of a machine, for ssh, scp, rsync and editors"
        ),
        Verb("ip", "ip", "ip", "Print where a machine is reached by the network: the best way, or with --json all"),
        Verb("qmp", "qmp", "qmp", "Send QEMU a monitor command"),
        Verb("balloon", "balloon", "balloon", "Show or change how much memory a machine has"),
    ),
}
"""Verbs by the heading they have in ``kvmctl --help``."""

VERBS: Final[dict[str, Verb]] = {verb.name: verb for group in GROUPS.values() for verb in group}
"""Verbs by name, in the order of the overview."""
