"""The public API as its users meet it: names, signatures, documentation, values that can be copied and sent."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass

import pytest

import kvmctl
from kvmctl import errors

PUBLIC = [getattr(kvmctl, name) for name in kvmctl.__all__]
ERRORS = [thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, kvmctl.KvmctlError)]


def test_dir_shows_what_is_public_and_nothing_else() -> None:
    assert {name for name in dir(kvmctl) if not name.startswith("__")} == set(kvmctl.__all__)
    assert "__version__" in dir(kvmctl)


def test_a_star_import_binds_every_public_name() -> None:
    bound: dict[str, object] = {}
    exec("from kvmctl import *", bound)
    assert set(kvmctl.__all__) <= set(bound)


def test_a_name_that_is_not_there_is_said_to_be_missing_where_it_was_looked_for() -> None:
    with pytest.raises(AttributeError, match="module 'kvmctl' has no attribute 'lunch'"):
        kvmctl.lunch  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'lunch' from 'kvmctl'"):
        exec("from kvmctl import lunch")


@pytest.mark.parametrize("name", kvmctl.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    thing = getattr(kvmctl, name)
    if not (inspect.isclass(thing) or callable(thing)):
        return
    assert inspect.getdoc(thing), name
    if inspect.isclass(thing) and not issubclass(thing, BaseException):
        for member, value in vars(thing).items():
            if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{name}.{member}"


@pytest.mark.parametrize("name", [n for n in kvmctl.__all__ if inspect.isroutine(getattr(kvmctl, n))])
def test_only_the_first_argument_or_two_of_a_public_function_may_go_without_its_name(name: str) -> None:
    positional = [
        parameter
        for parameter in inspect.signature(getattr(kvmctl, name)).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    assert not [parameter for parameter in positional[1:] if parameter.default is not parameter.empty], positional


def test_what_a_docstring_says_is_raised_is_an_error_that_there_is() -> None:
    known = {error.__name__ for error in ERRORS}
    for thing in (*PUBLIC, *(member for _, member in inspect.getmembers(kvmctl.Vm))):
        for said in re.findall(r"Raises ([^.]*)", inspect.getdoc(thing) or ""):
            names = set(re.findall(r"\b[A-Z][a-z][a-zA-Z]*\b", said))
            assert names <= known, (thing, names - known)


def test_help_shows_the_signature_and_the_errors() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "import kvmctl; help(kvmctl.launch)"], capture_output=True, text=True, check=True
    ).stdout
    assert "launch(machine:" in "".join(shown.split())
    assert "Raises" in shown


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_an_error_survives_being_sent_to_another_process(cls: type[kvmctl.KvmctlError]) -> None:
    error = (
        kvmctl.SpecError("web.toml", [kvmctl.Problem("cpus", "is no number", given="'two'")], hint="fix it")
        if cls is kvmctl.SpecError
        else cls("it failed", detail="in detail", hint="try again")
    )
    if isinstance(error, kvmctl.Busy):
        error.holder = 42
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is cls
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


RESULTS = (
    kvmctl.Problem("cpus", "is no number"),
    kvmctl.Exit(kvmctl.ExitReason.KILLED, 1.5, -9),
    kvmctl.StopResult("web", kvmctl.Rung.ACPI, 0.5, kvmctl.Exit(kvmctl.ExitReason.GUEST_SHUTDOWN)),
    kvmctl.Event("RESET", 1.0, {"guest": True}),
    kvmctl.Status(kvmctl.State.RUNNING, "7.2.22", None, ()),
    kvmctl.ExecResult(0, None, b"out", b"", truncated=False),
    kvmctl.MachineInfo("web", kvmctl.State.STOPPED, is_defined=True),
    kvmctl.Happening("web", kvmctl.Event("STOP", 1.0)),
    kvmctl.Balloon(1 << 20, {}, 0),
    kvmctl.Condition("event", "STOP"),
    kvmctl.Image("web", "0f3c", "qcow2", 1 << 30, 1 << 20, 1.5, "https://example.org/web.qcow2"),
    kvmctl.ImageInfo("web", None, problem="its file is gone"),
    kvmctl.PullProgress("web", "downloading", 1, 2),
    kvmctl.Roots("/c", "/s", "/r", "/k").machine("web"),
    kvmctl.parse('memory = "16MiB"', source="web.toml", base="/"),
)


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_a_result_survives_being_sent_and_copied_and_shows_what_it_is(result: object) -> None:
    assert pickle.loads(pickle.dumps(result)) == result == copy.deepcopy(result)
    if is_dataclass(result):
        assert repr(result).startswith(type(result).__name__)
        with pytest.raises((AttributeError, TypeError)):
            setattr(result, fields(result)[0].name, None)
