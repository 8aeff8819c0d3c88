"""Firmware descriptors: the three directories, what hides what, and which firmwares are of use."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from kvmctl.host.firmware import load_firmwares, parse_descriptor


def descriptor(code: str = "/fw/CODE.fd", **changes: Any) -> dict[str, Any]:
    mapping = {
        "device": "flash",
        "executable": {"filename": code, "format": "raw"},
        "nvram-template": {"filename": "/fw/VARS.fd", "format": "qcow2"},
    }
    targets = [{"architecture": "x86_64", "machines": ["pc-q35-*"]}]
    record = {"interface-types": ["uefi"], "mapping": mapping, "targets": targets, "features": ["secure-boot"]}
    return record | changes


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_a_file_hides_its_namesake_and_the_names_give_the_order(tmp_path: Path) -> None:
    system, admin, user = tmp_path / "usr", tmp_path / "etc", tmp_path / "config/qemu/firmware"
    write(system / "60-plain.json", descriptor("usr-60"))
    write(system / "50-secure.json", descriptor("usr-50"))
    write(system / "40-hidden.json", descriptor("usr-40"))
    write(admin / "50-secure.json", descriptor("etc-50"))
    write(admin / "40-hidden.json", "")
    write(user / "10-mine.json", descriptor("user-10"))
    found = load_firmwares({"XDG_CONFIG_HOME": str(tmp_path / "config")}, directories=(str(system), str(admin)))
    assert [firmware.code for firmware in found] == ["user-10", "etc-50", "usr-60"]


def test_the_user_s_directory_is_below_home_without_xdg(tmp_path: Path) -> None:
    write(tmp_path / ".config/qemu/firmware/10-mine.json", descriptor())
    assert [firmware.code for firmware in load_firmwares({"HOME": str(tmp_path)}, directories=())] == ["/fw/CODE.fd"]


def test_a_descriptor_that_cannot_be_read_is_logged_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "10-broken.json", "{")
    write(tmp_path / "20-other.json", {"mapping": {}})
    write(tmp_path / "30-good.json", descriptor())
    with caplog.at_level(logging.WARNING):
        assert len(load_firmwares({}, directories=(str(tmp_path),))) == 1
    assert "10-broken.json" in caplog.text
    assert "20-other.json" in caplog.text


def test_a_descriptor_tells_files_formats_machines_and_features() -> None:
    firmware = parse_descriptor(descriptor(), path="60.json")
    assert firmware is not None
    assert (firmware.code, firmware.code_format) == ("/fw/CODE.fd", "raw")
    assert (firmware.vars_template, firmware.vars_format) == ("/fw/VARS.fd", "qcow2")
    assert (firmware.machines, firmware.features) == (("pc-q35-*",), ("secure-boot",))


def test_a_stateless_firmware_has_no_variables() -> None:
    mapping = {"device": "flash", "mode": "stateless", "executable": {"filename": "/fw/CODE.fd", "format": "raw"}}
    firmware = parse_descriptor(descriptor(mapping=mapping), path="60.json")
    assert firmware is not None
    assert firmware.vars_template is None


@pytest.mark.parametrize(
    "changes",
    [
        {"interface-types": ["bios"]},
        {"targets": [{"architecture": "aarch64", "machines": ["virt-*"]}]},
        {"mapping": {"device": "memory", "filename": "/fw/bios.bin"}},
        {"mapping": {"device": "flash", "mode": "combined", "executable": {"filename": "/fw/x", "format": "raw"}}},
    ],
    ids=["bios", "other-architecture", "memory", "combined"],
)
def test_what_is_no_uefi_flash_for_x86_64_is_left_out(changes: dict[str, Any]) -> None:
    assert parse_descriptor(descriptor(**changes), path="60.json") is None
