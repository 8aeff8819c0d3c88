"""A Linux finds the seed where cloud-init looks for it: a disk with the label, its files by their names, not to be
written to."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from runtime.conftest import end_all

import kvmctl
from kvmctl import Roots, Vm

SCRIPT = Path(__file__).parents[2] / "scripts/build-guest"
PATIENCE = 120

pytestmark = [pytest.mark.linux, pytest.mark.slow]


@pytest.fixture
async def linux(tmp_path: Path, pytestconfig: pytest.Config) -> AsyncIterator[Vm]:
    built = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"the guest can't be built here: {built.stderr.strip().splitlines()[-1]}")
    kernel, initrd, *_ = built.stdout.split()
    spec = f"""
        memory = "256MiB"
        accel = "tcg"
        [boot]
        kernel = "{kernel}"
        initrd = "{initrd}"
        cmdline = "console=ttyS0 quiet panic=-1"
        [[networks]]
        type = "user"
        [guest]
        hostname = "told"
    """
    cache = pytestconfig.cache
    assert cache is not None
    roots = Roots(*(str(tmp_path / part) for part in ("config", "state", "runtime")), str(cache.mkdir("kvmctl")))
    async with kvmctl.launch(kvmctl.parse(spec, source="web.toml", base=str(tmp_path)), roots=roots) as vm:
        async with asyncio.timeout(PATIENCE):
            await vm.wait_for_agent()
        yield vm
    assert os.listdir(tmp_path / "runtime") == [], "keys of a machine that is gone"
    assert not (tmp_path / "state").exists()
    assert not end_all(str(tmp_path))


async def inside(vm: Vm, script: str) -> str:
    result = await vm.exec(["sh", "-c", script])
    assert result.exit_code == 0, result
    return result.stdout.decode()


async def test_a_linux_reads_the_seed_and_cannot_write_it(linux: Vm) -> None:
    assert await inside(linux, "dd if=/dev/vda bs=1 skip=32808 count=7 2>/dev/null") == "CIDATA "
    await inside(linux, "modprobe isofs; mkdir /seed; mount -t iso9660 -o ro /dev/vda /seed")
    assert await inside(linux, "ls /seed") == "meta-data\nnetwork-config\nuser-data\n"
    assert '"local-hostname": "told"' in await inside(linux, "cat /seed/meta-data")
    mac = (await inside(linux, "cat /sys/class/net/eth0/address")).strip()
    assert f'"macaddress": "{mac}"' in await inside(linux, "cat /seed/network-config")
    assert await inside(linux, "cat /sys/block/vda/ro") == "1\n"
    assert "ds=nocloud" in await inside(linux, "cat /sys/class/dmi/id/product_serial")
