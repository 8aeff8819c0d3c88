"""Signals at the one place where the command line enters asyncio."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from .conftest import PATIENCE

SCRIPT = """
import asyncio, sys
from kvmctl.cli import session

async def work():
    print("begun", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        print("cleared away", flush=True)

session.run(work(), timeout=float(sys.argv[1]) or None)
"""


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    arguments = ["nohup", sys.executable, "-c", SCRIPT, "0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("timeout", ["0", "100"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_who_is_asked_to_end_clears_away_first(number: signal.Signals, timeout: str) -> None:
    arguments = [sys.executable, "-c", SCRIPT, timeout]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        rest, _ = process.communicate(timeout=PATIENCE)
    assert rest == "cleared away\n"
    if number is not signal.SIGINT:  # which is Python's own KeyboardInterrupt
        assert process.returncode == 128 + number
