"""Firmware, kernels, the clock, SMBIOS and credentials."""

from __future__ import annotations

from pathlib import Path

import factory
import pytest

from kvmctl.plan.model import CopyNvram, Input, Plan, StoreSecret
from kvmctl.plan.option import render
from kvmctl.plan.paths import builtin_guest


def words(made: Plan, flag: str) -> list[str]:
    """What follows every ``-flag``."""
    return [render([option], {})[1] for option in factory.options(made, flag)]


# --- firmware


def test_the_bios_is_qemu_s_own() -> None:
    made = factory.plan()
    assert words(made, "bios") == []
    assert not any(str(option.body.get("node-name", "")).startswith("pflash") for option in made.options)


def test_a_rom_is_named_or_found_by_its_path() -> None:
    assert words(factory.plan("firmware = 'qboot.rom'"), "bios") == ["qboot.rom"]
    made = factory.plan("firmware = './my,rom.bin'")
    assert words(made, "bios") == ["/specs/my,rom.bin"]
    assert made.inputs == (Input("/specs/my,rom.bin", "firmware"),)


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_uefi_has_its_code_and_its_variables(machine: str) -> None:
    made = factory.plan(f"machine = '{machine}'\nfirmware = 'uefi'")
    code, template = factory.PLAIN.code, factory.PLAIN.vars_template or ""
    assert factory.body(made, "blockdev", "pflash0-file")["filename"] == code
    assert factory.body(made, "blockdev", "pflash0") == {
        "driver": "raw",
        "node-name": "pflash0",
        "file": "pflash0-file",
        "read-only": True,
    }
    assert factory.body(made, "blockdev", "pflash1")["driver"] == "qcow2"
    assert factory.body(made, "blockdev", "pflash1-file")["filename"] == factory.PATHS.nvram
    assert factory.steps(made) == (CopyNvram(template, "raw", factory.PATHS.nvram, "firmware"),)
    assert {"pflash0": "pflash0", "pflash1": "pflash1"}.items() <= factory.only(made, "machine").body.items()


def test_secure_boot_keeps_its_variables_from_the_guest() -> None:
    made = factory.plan("firmware = 'uefi-secure'")
    assert factory.body(made, "blockdev", "pflash0-file")["filename"] == factory.SECURE.code
    assert factory.only(made, "machine").body["smm"] is True
    assert factory.only(made, "global").body == {"driver": "cfi.pflash01", "property": "secure", "value": True}


def test_secure_boot_needs_a_kvm_with_system_management_mode() -> None:
    assert factory.rejected("firmware = 'uefi-secure'", host=factory.host(kvm=factory.KVM)) == [
        (
            "firmware: secure boot needs system management mode, which this host's KVM does not have; "
            "accel = 'tcg', or firmware = 'uefi'"
        )
    ]
    factory.plan("firmware = 'uefi-secure'", host=factory.host(kvm=factory.kvm(capabilities={"X86_SMM": 1})))


def test_secure_boot_does_not_look_at_a_kernel_and_says_so() -> None:
    made = factory.plan("firmware = 'uefi-secure'\n[boot]\nkernel = './vmlinuz'")
    assert any("does not verify boot.kernel" in warning for warning in made.warnings)


def test_a_host_without_firmware_is_told_which_package_has_it() -> None:
    (problem,) = factory.rejected("firmware = 'uefi'", qemu=factory.qemu(firmwares=()))
    assert problem == (
        "firmware: no descriptor in /usr/share/qemu/firmware names one for pc-q35-7.2 (given 'uefi'); "
        "install the package ovmf (Debian, Ubuntu) or edk2-ovmf (Fedora, Arch)"
    )


# --- kernels


def test_a_kernel_is_started_directly() -> None:
    text = "[boot]\nkernel = './vm,linuz'\ninitrd = '/boot/initrd'\ncmdline = 'console=ttyS0 a=1,2'\nmenu = true"
    made = factory.plan(text)
    assert [words(made, flag) for flag in ("kernel", "initrd", "append", "boot")] == [
        ["/specs/vm,linuz"],
        ["/boot/initrd"],
        ["console=ttyS0 a=1,2"],
        ["menu=on"],
    ]
    assert made.inputs == (Input("/specs/vm,linuz", "boot.kernel"), Input("/boot/initrd", "boot.initrd"))


def test_the_guest_that_ships_is_a_kernel_by_its_name() -> None:
    made = factory.plan("[boot]\nkernel = 'builtin:tiny'")
    assert words(made, "kernel") == [builtin_guest()]
    assert Path(builtin_guest()).is_file()


# --- the clock


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "base=utc,clock=host,driftfix=none"),
        ("[clock]\nbase = 'localtime'\ndriftfix = 'slew'", "base=localtime,clock=host,driftfix=slew"),
        ("[clock]\nbase = '2024-02-29T12:00:00'\nsource = 'vm'", "base=2024-02-29T12:00:00,clock=vm,driftfix=none"),
        ("[clock]\nbase = 2024-02-29T12:00:00", "base=2024-02-29T12:00:00,clock=host,driftfix=none"),
        ("[clock]\nbase = '2024-02-29'", "base=2024-02-29T00:00:00,clock=host,driftfix=none"),
        ("machine = 'microvm'", "base=utc,clock=host"),
    ],
)
def test_the_clock_starts_where_it_is_told_to(text: str, expected: str) -> None:
    assert words(factory.plan(text), "rtc") == [expected]


@pytest.mark.parametrize("hpet", [True, False])
def test_the_hpet_is_a_property_of_the_machine(hpet: bool) -> None:
    made = factory.plan(f"[clock]\nhpet = {str(hpet).lower()}")
    assert factory.only(made, "machine").body["hpet"] is hpet
    assert "hpet" not in factory.only(factory.plan(), "machine").body


# --- SMBIOS and credentials


def test_smbios_tables_are_filled_in() -> None:
    made = factory.plan(
        """
        [smbios]
        oem_strings = ["first", "a,b"]
        [smbios.bios]
        vendor = "kvmctl"
        uefi = true
        [smbios.system]
        manufacturer = "ACME, Inc."
        serial = "ds=nocloud"
        """
    )
    assert words(made, "smbios") == [
        "type=0,vendor=kvmctl,uefi=on",
        "type=1,manufacturer=ACME,, Inc.,serial=ds=nocloud",
        "type=11,value=first",
        "type=11,value=a,,b",
    ]


def test_a_credential_is_an_smbios_string() -> None:
    made = factory.plan(
        '[credentials]\n"ssh.authorized_keys.root" = "ssh-ed25519 AAAA, me"\nmotd = { value = "two\\nlines" }'
    )
    assert words(made, "smbios") == [
        "type=11,value=io.systemd.credential:ssh.authorized_keys.root=ssh-ed25519 AAAA,, me",
        "type=11,value=io.systemd.credential.binary:motd=dHdvCmxpbmVz",
    ]


def test_a_secret_credential_is_only_ever_named() -> None:
    made = factory.plan("[credentials]\ntoken = { env = 'TOKEN' }\nkey = { file = './key' }")
    stored = "/run/kvmctl/web/secrets/credential-token"
    assert words(made, "fw_cfg") == [
        f"name=opt/io.systemd.credentials/token,file={stored}",
        "name=opt/io.systemd.credentials/key,file=/specs/key",
    ]
    assert factory.steps(made) == (StoreSecret("TOKEN", stored, "credentials.token.env"),)
    assert made.inputs == (Input("/specs/key", "credentials.key.file"),)
