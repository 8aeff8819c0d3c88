"""``kvmctl kill``, ``reset``, ``pause``, ``resume``: the verbs that say one thing to a running machine."""

from __future__ import annotations

import kvmctl
from kvmctl.cli.arguments import Name
from kvmctl.cli.session import on_machine


def kill(name: Name) -> None:
    """End a machine at once, as pulling the plug would.

    Nothing is flushed: the guest finds its disks as after a power cut. To be asked first: kvmctl stop.
    """
    kvmctl.kill(name)


def reset(name: Name) -> None:
    """Press the reset button.

    The guest is not asked and starts again from its firmware; QEMU and its configuration stay as they are.
    """
    on_machine(name, lambda vm: vm.reset())


def pause(name: Name) -> None:
    """Halt a machine's CPUs.

    Its memory stays where it is and its clock stands still until kvmctl resume.
    """
    on_machine(name, lambda vm: vm.pause())


def resume(name: Name) -> None:
    """Let a paused machine go on.

    Also one that was stopped by a full disk, once there is room again.
    """
    on_machine(name, lambda vm: vm.resume())
