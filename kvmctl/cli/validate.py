"""``kvmctl validate``."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from kvmctl import HostError, ImageMissing, KvmctlError, SpecError, check_guest, missing_images, prepare
from kvmctl.cli import output
from kvmctl.cli.arguments import Json, complete_machine

_HERE: Final = (HostError, ImageMissing)
"""What is no fault of the spec's."""


def validate(
    specs: Annotated[
        list[str],
        typer.Argument(
            metavar="SPEC...",
            help="Paths of specs (with a / or ending in .toml), or names of machines.",
            autocompletion=complete_machine,
        ),
    ],
    json: Json = False,
) -> None:
    """Check a spec and name every problem in it.

    The spec is compiled for this host and its QEMU, so that a device which that QEMU lacks is a problem too. Images are
    not looked into, but keys and files for the guest are. A spec that is right but can't run here (no QEMU, no KVM, an
    image that is not in the store) gets a warning.

    \b
    kvmctl validate machines/web.toml
    kvmctl validate machines/*.toml --json | jq '.specs[].problems[]'
    """
    results = [_check(spec) for spec in specs]
    if json:
        output.print_json({"specs": [_record(spec, error) for spec, error in zip(specs, results, strict=True)]})
    else:
        for spec, error in zip(specs, results, strict=True):
            _print(spec, error)
    wrong = [error for error in results if error and not isinstance(error, _HERE)]
    if wrong:
        raise typer.Exit(wrong[0].exit_code)


def _check(spec: str) -> KvmctlError | None:
    """What is wrong with the spec, or with this host for it."""
    try:
        plan = prepare(spec, remember=False).plan
        check_guest(plan)
        missing = missing_images(plan)
    except KvmctlError as error:
        return error
    return missing[0] if missing else None


def _print(spec: str, error: KvmctlError | None) -> None:
    match error:
        case None:
            output.emit(f"{spec}: no problems")
        case HostError() | ImageMissing():
            output.emit(f"{spec}: no problems")
            output.warn(f"{spec} can't run here: {error.summary}")
            output.hint(error)
        case _:
            output.fail(error)


def _record(spec: str, error: KvmctlError | None) -> dict[str, object]:
    problems = [problem._asdict() for problem in error.problems] if isinstance(error, SpecError) else []
    return {
        "spec": spec,
        "valid": error is None or isinstance(error, _HERE),
        "problems": problems,
        "error": None if error is None else error.summary,
    }
