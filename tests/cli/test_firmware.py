"""UEFI for real: the variables are the machine's own, from its first start to its removal."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from .conftest import PATIENCE, Kvmctl

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(not Path("/usr/share/qemu/firmware").is_dir(), reason="no UEFI firmware is installed"),
]


@pytest.mark.parametrize("firmware", ["uefi", "uefi-secure"])
def test_uefi_variables_are_made_once_kept_and_removed(kvmctl: Kvmctl, firmware: str) -> None:
    (kvmctl.directory / "web.toml").write_text(f"memory = '64MiB'\naccel = 'tcg'\nfirmware = '{firmware}'\n")
    kvmctl.ok("define", "web.toml")
    nvram = kvmctl.directory / "state/machines/web/nvram.qcow2"
    made = []
    for _ in range(2):
        kvmctl.ok("start", "web")
        kvmctl.ok("kill", "web")
        made.append(nvram.stat().st_ino)
    info = subprocess.run(
        ["qemu-img", "info", "--output=json", nvram], capture_output=True, check=True, timeout=PATIENCE
    ).stdout
    assert made[0] == made[1]
    assert json.loads(info)["format"] == "qcow2"
    assert nvram.stat().st_mode & 0o777 == 0o600
    kvmctl.ok("rm", "web", "--yes")
    assert not nvram.exists()


def test_a_start_that_failed_leaves_no_uefi_variables(kvmctl: Kvmctl) -> None:
    spec = "memory = '64MiB'\naccel = 'tcg'\nfirmware = 'uefi'\nextra_args = ['-device', 'nonsense']\n"
    (kvmctl.directory / "web.toml").write_text(spec)
    done = kvmctl("start", "./web.toml")
    assert done.returncode == 9
    assert "nonsense" in done.stderr
    assert f"hint: See the command line: kvmctl argv {kvmctl.directory}/web.toml\n" in done.stderr
    assert not (kvmctl.directory / "state").exists()
