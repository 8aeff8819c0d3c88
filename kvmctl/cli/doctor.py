"""``kvmctl doctor``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Final

import typer

from kvmctl import Finding, HostError, Report, diagnose, survey
from kvmctl.cli import output
from kvmctl.cli.arguments import Json
from kvmctl.cli.output import Colour

_COLOURS: Final[dict[str, Colour]] = {"ok": "green", "note": "dim", "warning": "yellow", "problem": "red"}
_INDENT: Final = max(map(len, _COLOURS)) + 2


def doctor(json: Json = False) -> None:
    """Say what this host can run, and what to do about the rest.

    Looks at KVM, QEMU, the devices and programs that machines use, memory and control groups, and says which
    accelerator `accel = "auto"` takes here. Changes nothing. The JSON holds everything that was seen, so that a host
    can be judged from a bug report.

    \b
    kvmctl doctor
    kvmctl doctor --json | jq '.findings[] | select(.level != "ok")'

    Fails, with 8, only where no machine can run at all.
    """
    seen = survey()
    report = diagnose(seen)
    if json:
        output.print_json({**asdict(report), "survey": asdict(seen)})
    else:
        for finding in report.findings:
            _print(finding)
        _print_verdict(report)
    if not report.can_run:
        raise typer.Exit(HostError.exit_code)


def _print(finding: Finding) -> None:
    mark = output.paint(finding.level, _COLOURS[finding.level], stream=sys.stdout)
    output.emit(f"{mark}{' ' * (_INDENT - len(finding.level))}{output.printable(finding.summary)}")
    if finding.fix:
        output.emit(f"{' ' * _INDENT}{output.paint('→', 'cyan', stream=sys.stdout)} {output.printable(finding.fix)}")


def _print_verdict(report: Report) -> None:
    verdict = report.verdict
    output.emit(f'\naccel = "auto" takes {verdict.accel.upper()} here: {output.printable(verdict.reason)}')
    if not report.can_run:
        output.emit(
            output.paint("No machine can run here until the problems above are solved.", "red", stream=sys.stdout)
        )
