"""Machines with a helper program beside QEMU: one that is as small as a helper can be."""

from __future__ import annotations

import sys

from kvmctl.plan.helper import Helper
from kvmctl.plan.model import Plan
from kvmctl.plan.option import Fd, keyvals
from kvmctl.plan.paths import MachinePaths

SERVE = """
import socket, sys
socket.socket(fileno=int(sys.argv[1])).accept()[0].recv(1)
"""
"""A helper as they should be: it ends when nobody holds its connection."""

STUBBORN = """
import signal
signal.pause()
"""
"""A helper as they should not be."""

FAILING = """
import sys
sys.exit("no such luck")
"""


def with_helper(plan: Plan, paths: MachinePaths, script: str = SERVE) -> Plan:
    """`plan` with a helper that runs the Python program `script`; its run directory is on the command line."""
    helper = Helper(
        id="extra",
        program="the helper",
        argv=(sys.executable, "-c", script, Fd("extra-listens"), paths.run),
        listens="extra-listens",
        fd="extra",
        socket=paths.helper_socket("extra"),
        lock=paths.helper_lock("extra"),
        log=paths.helper_log("extra"),
        key="extras[0]",
    )
    connection = keyvals("chardev", "socket", {"id": "extra", "fd": Fd("extra")}, why="test")
    return plan._replace(helpers=(helper,), options=(*plan.options, connection))
