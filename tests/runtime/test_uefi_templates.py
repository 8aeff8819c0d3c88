"""Templates of real UEFI machines: OVMF, as far as its own shell, with its variables."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import kvmctl
from kvmctl import Roots
from kvmctl.spec.load import from_mapping

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.slow,
    pytest.mark.usefixtures("roots"),
    pytest.mark.skipif(not Path("/usr/share/qemu/firmware").is_dir(), reason="no UEFI firmware is installed"),
]

COUNTDOWN = "seconds to skip"
"""What the shell prints before it takes commands."""


@pytest.mark.timeout(300)
async def test_a_uefi_machine_is_frozen_with_its_variables_and_its_forks_boot_with_their_own(roots: Roots) -> None:
    spec = {"name": "uefi", "memory": "96MiB", "accel": "tcg", "firmware": "uefi", "balloon": False, "rng": False}
    machine = from_mapping(spec, source="uefi.toml", base=os.getcwd())
    template = await kvmctl.create_template("uefi", machine, until=f"console:{COUNTDOWN}")
    assert {"nvram.qcow2", "blanks/pflash1.qcow2"} < set(template.record.files)
    async with await template.fork() as fork:
        with kvmctl.open_console(fork.name) as console:
            console.send(b" ")  # any key ends the countdown, which goes on where it was frozen
            await fork.wait_for_console("Shell> ")
        assert "BdsDxe" not in fork.console_text()
        nodes = {item["node-name"]: item for item in await fork.qmp("query-named-block-nodes")}
        assert nodes["pflash1"]["file"] == os.path.join(fork.paths.disks, "pflash1.qcow2")
        assert nodes["pflash1-frozen-file"]["file"] == os.path.join(template.paths.directory, "nvram.qcow2")
        await fork.kill()
        await fork.start()
        await fork.wait_for_console("BdsDxe: starting")
        await fork.wait_for_console(COUNTDOWN)
    template.check()
