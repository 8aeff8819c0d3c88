"""The firmware: QEMU's BIOS, a ROM image, or a UEFI found through the descriptors that distributions install.

UEFI variables are kept as qcow2 from the first boot on: snapshots of a machine need a format that can hold them, and a
machine can't be moved from one format to the other later without its owner noticing.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, TypeAlias

from pydantic import BeforeValidator, ValidationInfo

from kvmctl.errors import Problem
from kvmctl.plan import facts
from kvmctl.plan.model import CopyNvram, Input
from kvmctl.plan.option import Option, Parameter, Value, jsonopt, keyval, text
from kvmctl.spec.context import Context, Lowered
from kvmctl.spec.hostpath import anchor_path, base_of
from kvmctl.spec.model import reject
from kvmctl.spec.words import did_you_mean

FROM_DESCRIPTORS: Final = ("uefi", "uefi-secure")
"""The firmwares that are found by the descriptors among the facts; the others need none."""
_KINDS: Final = ("bios", *FROM_DESCRIPTORS)
_QBOOT: Final = "qboot.rom"
_ROM_SUFFIXES: Final = (".rom", ".bin", ".fd")
_ALLOWED: Final = "'bios', 'uefi', 'uefi-secure', the name of a ROM that comes with QEMU ('qboot.rom'), or a path"
_KEY: Final = "firmware"


def _parse(value: Any, info: ValidationInfo) -> str:
    if not isinstance(value, str) or "/" not in value:
        is_known = value in _KINDS or (isinstance(value, str) and value.endswith(_ROM_SUFFIXES))
        if not is_known:
            raise reject("is no firmware", allowed=did_you_mean(value, (*_KINDS, _QBOOT)) + _ALLOWED)
    return value if "/" not in value else anchor_path(value, base_of(info))


Firmware: TypeAlias = Annotated[str, BeforeValidator(_parse)]
"""``bios``, ``uefi``, ``uefi-secure``, a ROM's name in QEMU's own directories, or a path."""


def lower(firmware: str, ctx: Context, *, has_kernel: bool, has_screen: bool) -> Lowered:
    """``-bios``, or the two flash chips of a UEFI."""
    if firmware == "bios":
        is_heard = ctx.has_serial and not has_screen and not has_kernel and ctx.platform != "microvm"
        # SeaBIOS, and boot loaders that use its services, print to the first serial port of a machine that says it
        # has no graphics. Else nobody would learn that they found nothing to start.
        heard = Parameter(value=False, why="default: without a screen, the firmware prints to the first serial port")
        return Lowered(machine=(("graphics", heard),) if is_heard else ())
    if firmware not in _KINDS:
        inputs = (Input(firmware, _KEY),) if firmware.startswith("/") else ()
        return Lowered(options=(text("bios", firmware, why=_KEY),), inputs=inputs)
    found = _find(firmware, ctx)
    if found is None:
        return Lowered(problems=(_not_installed(firmware, ctx),))
    unverified = "uefi-secure does not verify boot.kernel: QEMU hands it over behind the firmware's back"
    return Lowered(
        options=tuple(_options(found, ctx)),
        machine=tuple(_machine(found)),
        steps=_steps(found, ctx),
        inputs=tuple(Input(path, _KEY) for path in (found.code, found.vars_template) if path),
        warnings=(unverified,) if has_kernel and firmware == "uefi-secure" else (),
        problems=tuple(_smm_problems(found, ctx)),
    )


def _find(firmware: str, ctx: Context) -> facts.Firmware | None:
    """The first descriptor, in their order of priority, that fits the machine and what is asked for."""
    for candidate in ctx.qemu.firmwares:
        is_secure = {"secure-boot", "enrolled-keys"} <= set(candidate.features)
        is_plain = "secure-boot" not in candidate.features and not _needs_smm(candidate)
        if any(fnmatchcase(ctx.machine_type, pattern) for pattern in candidate.machines) and (
            is_secure if firmware == "uefi-secure" else is_plain
        ):
            return candidate
    return None


def _needs_smm(firmware: facts.Firmware) -> bool:
    return "requires-smm" in firmware.features


def _not_installed(firmware: str, ctx: Context) -> Problem:
    if ctx.platform == "microvm" or (ctx.platform == "pc" and firmware == "uefi-secure"):
        return Problem(_KEY, f"there is no such firmware for {ctx.platform}", f"'{firmware}'", "machine = 'q35'")
    return Problem(
        _KEY,
        f"no descriptor in /usr/share/qemu/firmware names one for {ctx.machine_type}",
        f"'{firmware}'",
        "install the package ovmf (Debian, Ubuntu) or edk2-ovmf (Fedora, Arch)",
    )


def _options(found: facts.Firmware, ctx: Context) -> Iterator[Option]:
    yield from _flash("pflash0", found.code, found.code_format, read_only=True)
    if found.vars_template is not None:
        yield from _flash("pflash1", ctx.paths.nvram, "qcow2", read_only=False)
    if _needs_smm(found):
        # Only code in system management mode may write the variables, or the guest could enroll keys of its own.
        yield keyval("global", driver="cfi.pflash01", property="secure", value=True, why=_KEY)


def _flash(node: str, path: str, image_format: str, *, read_only: bool) -> tuple[Option, Option]:
    storage: dict[str, Value] = {
        "driver": "file",
        "node-name": f"{node}-file",
        "filename": path,
        "read-only": read_only,
    }
    chip: dict[str, Value] = {"driver": image_format, "node-name": node, "file": f"{node}-file", "read-only": read_only}
    return jsonopt("blockdev", storage, why=_KEY), jsonopt("blockdev", chip, why=_KEY)


def _machine(found: facts.Firmware) -> Iterator[tuple[str, Parameter]]:
    yield "pflash0", Parameter("pflash0", _KEY)
    if found.vars_template is not None:
        yield "pflash1", Parameter("pflash1", _KEY)
    if _needs_smm(found):
        yield "smm", Parameter(value=True, why=_KEY)


def _steps(found: facts.Firmware, ctx: Context) -> tuple[CopyNvram, ...]:
    if found.vars_template is None:
        return ()
    return (CopyNvram(found.vars_template, found.vars_format, ctx.paths.nvram, _KEY),)


def _smm_problems(found: facts.Firmware, ctx: Context) -> Iterator[Problem]:
    if _needs_smm(found) and ctx.accel == "kvm" and not ctx.host.kvm.capabilities.get("X86_SMM"):
        message = "secure boot needs system management mode, which this host's KVM does not have"
        yield Problem(_KEY, message, allowed="accel = 'tcg', or firmware = 'uefi'")
