"""The pytest plugin: fixtures, a marker, options, and what a failed test's report says of its machines.

Nothing but the standard library is imported until a test asks for a machine: pytest loads this in every run of
everybody who has kvmctl installed.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import pytest

from kvmctl.testing.blueprint import DEFAULT_SPEC, PATIENCE, TEST_WORD, Blueprint

if TYPE_CHECKING:
    from kvmctl.runtime.fork import Template
    from kvmctl.testing.facade import Guest
    from kvmctl.testing.lab import Lab
    from kvmctl.testing.machines import Machines
    from kvmctl.testing.words import AsyncGuest

_FIXTURES: Final = frozenset({"_vm_machines"})
"""What every test has that has machines."""
_KEPT: Final = "kvmctl: left running"
_MACHINES: Final = pytest.StashKey[Any]()
_WATCHMAN: Final = pytest.StashKey[Any]()
_FAILED: Final = pytest.StashKey[bool]()
_NEXT: Final = pytest.StashKey[Any]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, and their defaults in a configuration file."""
    group = parser.getgroup("vm", "virtual machines (kvmctl)")
    group.addoption("--vm-spec", metavar="SPEC", help=f"machine of the fixture vm, a name or a file [{DEFAULT_SPEC}]")
    group.addoption("--vm-cold", action="store_true", help="boot every machine instead of forking a frozen one")
    group.addoption("--vm-keep-failed", action="store_true", help="leave the machines of failed tests running")
    group.addoption("--vm-artifacts", metavar="DIR", help="keep what is known of the machines of failed tests there")
    group.addoption(
        "--vm-patience", metavar="SECONDS", help=f"give up on a machine that does not come up by then [{PATIENCE:g}]"
    )
    parser.addini("vm_spec", "machine of the fixture vm, a name or a file that counts from the root directory")
    parser.addini("vm_artifacts", "directory for what is known of the machines of failed tests")
    parser.addini("vm_patience", "seconds that a machine may take to boot, to be waited for and to be frozen")


def pytest_configure(config: pytest.Config) -> None:
    """The marker."""
    config.addinivalue_line(
        "markers",
        "vm(spec=…, until=…, run=[…], hostname=…, patience=…, **keys): what the machine of the fixture vm is made "
        "from; all other keywords are keys of its spec, as memory='1GiB'",
    )


# -- fixtures ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def vm_template() -> Blueprint | Template:
    """What machines are made from where a test does not say otherwise; override it in a conftest.py.

    It returns a `kvmctl.testing.Blueprint`, or a template that is made already.
    """
    return Blueprint()


@pytest.fixture(scope="session")
def _vm_lab(pytestconfig: pytest.Config) -> Iterator[Lab]:
    lab = _load("lab").Lab(_settings(pytestconfig))
    yield lab
    lab.close()


@pytest.fixture
def _vm_machines(request: pytest.FixtureRequest, _vm_lab: Lab) -> Iterator[Machines]:
    machines: Machines = _load("machines").Machines(_vm_lab, nodeid=request.node.nodeid)
    request.node.stash[_MACHINES] = machines
    yield machines
    machines.close(is_failed=request.node.stash.get(_FAILED, False))


@pytest.fixture
def vm(request: pytest.FixtureRequest, _vm_machines: Machines, vm_template: Blueprint | Template) -> Guest:
    """A machine of its own for this test: a fresh fork of the template, as the marker `vm` has it."""
    guest = _vm_machines.raise_(vm_template, _marked(request.node))
    following = request.node.stash.get(_NEXT, None)
    is_known = all(_is_same_fixture(name, request.node, following) for name in ("vm", "vm_template"))
    if is_known and _has_cpu_to_spare(request.config):
        with suppress(pytest.UsageError):  # that test's own
            _vm_machines.look_ahead(following.nodeid, vm_template, _marked(following))
    return guest


def _has_cpu_to_spare(config: pytest.Config) -> bool:
    """Whether there is one to make the next test's machine on: xdist's workers may be at work on all of them."""
    workers = int(getattr(config, "workerinput", {}).get("workercount", 1))
    return workers == 1 or 2 * workers <= len(os.sched_getaffinity(0))


@pytest.fixture
def vm_factory(_vm_machines: Machines, vm_template: Blueprint | Template) -> Callable[..., Guest]:
    """Makes machines for this test: ``vm_factory()``, or with what the marker `vm` takes."""

    def make(**words: Any) -> Guest:
        return _vm_machines.raise_(vm_template, words)

    return make


@pytest.fixture
def async_vm(vm: Guest) -> AsyncGuest:
    """The machine of the fixture `vm`, for ``await``."""
    return vm.asynchronous


@pytest.fixture
def async_vm_factory(
    _vm_machines: Machines, _vm_lab: Lab, vm_template: Blueprint | Template
) -> Callable[..., Awaitable[AsyncGuest]]:
    """As `vm_factory`, for ``await``."""
    on_loop = _load("loop").on_loop

    async def make(**words: Any) -> AsyncGuest:
        guest: AsyncGuest = await on_loop(_vm_lab.loop.loop, _vm_machines.raise_async(vm_template, words))
        return guest

    return make


def _is_same_fixture(name: str, item: pytest.Item, other: pytest.Item | None) -> bool:
    """Whether both tests have the fixture, and nobody has overridden it for one of them."""
    found = [getattr(each, "_fixtureinfo", None) for each in (item, other)]
    mine, theirs = ([*info.name2fixturedefs.get(name, ())] if info is not None else [] for info in found)
    return bool(mine and theirs) and mine[-1] is theirs[-1]


def _marked(item: pytest.Item) -> dict[str, Any]:
    """What the markers of a test say, those nearer to it last."""
    words: dict[str, Any] = {}
    for mark in reversed(list(item.iter_markers("vm"))):
        if mark.args:
            message = f"@pytest.mark.vm takes keywords only, as spec={mark.args[0]!r}"
            raise pytest.UsageError(message)
        words |= mark.kwargs
    return words


def _settings(config: pytest.Config) -> Any:
    here = str(config.invocation_params.dir)
    spec = config.getoption("--vm-spec") or ""
    if "/" in spec or spec.endswith((".toml", ".json")):
        spec = os.path.join(here, spec)
    return _load("lab").Settings(
        root=str(config.rootpath),
        spec=spec or config.getini("vm_spec") or DEFAULT_SPEC,
        cold=config.getoption("--vm-cold"),
        keep_failed=config.getoption("--vm-keep-failed"),
        artifacts=_artifacts(config),
        patience=_patience(config),
    )


def _patience(config: pytest.Config) -> float:
    text = config.getoption("--vm-patience") or config.getini("vm_patience") or str(PATIENCE)
    try:
        return float(text)
    except ValueError:
        message = f"--vm-patience, or vm_patience in the configuration: {text!r} is no number of seconds"
        raise pytest.UsageError(message) from None


def _artifacts(config: pytest.Config) -> str:
    given = config.getoption("--vm-artifacts")
    if given:
        return os.path.join(str(config.invocation_params.dir), given)
    configured = config.getini("vm_artifacts")
    return os.path.join(str(config.rootpath), configured) if configured else ""


def _load(name: str) -> Any:
    return import_module(f"kvmctl.testing.{name}")


# -- leaks -------------------------------------------------------------------------------------------------------------


def _has_machines(item: pytest.Item) -> bool:
    return not _FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Which test comes next is known; its machine is forked while this one runs."""
    item.stash[_NEXT] = nextitem


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """All that a test starts is marked as its own, by a word in the environment."""
    if _has_machines(item):
        watchman = item.stash[_WATCHMAN] = _load("leaks").Watchman()
        os.environ[TEST_WORD] = watchman.word
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
    """What a fixture of several tests starts is none of theirs."""
    word = os.environ.pop(TEST_WORD, None) if fixturedef.scope != "function" else None
    try:
        return (yield)
    finally:
        if word is not None:
            os.environ[TEST_WORD] = word


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """A test that has left something running fails."""
    try:
        result = yield
    finally:
        leaks = _find_leaks(item) if _WATCHMAN in item.stash else []
    if leaks:
        pytest.fail("the test has left behind:\n" + "\n".join(f"  {leak}" for leak in leaks), pytrace=False)
    return result


def _find_leaks(item: pytest.Item) -> list[str]:
    os.environ.pop(TEST_WORD, None)
    machines: Machines | None = item.stash.get(_MACHINES, None)
    leaks: list[str] = item.stash[_WATCHMAN].leaks(kept=machines.not_mine if machines else [])
    return leaks + (machines.left_behind() if machines else [])


# -- reports -----------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test's report says what is known of its machines."""
    report = yield
    machines = item.stash.get(_MACHINES, None)
    if machines is not None:
        if report.failed and call.when != "teardown":
            item.stash[_FAILED] = True
            _add_evidence(item, report, call.excinfo.value if call.excinfo else None)
        for name in machines.kept if call.when == "teardown" else ():
            report.user_properties.append((_KEPT, name))
    return report


def _add_evidence(item: pytest.Item, report: pytest.TestReport, error: BaseException | None) -> None:
    evidence = _load("evidence")
    machines: Machines = item.stash[_MACHINES]
    text = evidence.verdict(error)
    if text:
        report.sections.append(("vm: verdict", text))
    artifacts = _artifacts(item.config)
    directory = evidence.directory_of(artifacts, item.nodeid) if artifacts else ""
    for found in machines.evidence(directory=directory):
        for title, words in found.sections.items():
            report.sections.append((f"vm {found.name}: {title}", words))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How to get into the machines that were left running."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    names = [value for report in reports for key, value in getattr(report, "user_properties", ()) if key == _KEPT]
    if names:
        terminalreporter.section("machines left running")
        for name in dict.fromkeys(names):
            terminalreporter.write_line(f"{name}: kvmctl console {name}; kvmctl exec {name} -- sh; kvmctl kill {name}")
