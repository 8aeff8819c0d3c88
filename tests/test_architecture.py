"""The shape of the package, read from its syntax trees: who may import whom, and what is done in one place only.

The picture these rules draw is in ARCHITECTURE.md. Each rule says why it is there; break one for a good reason by
changing the rule and the picture together.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

BELOW: dict[str, set[str]] = {
    "verdict": set(),
    "errors": {"verdict"},
    "files": {"errors"},
    "ioctl": set(),
    "plan": {"errors"},
    "spec": {"plan", "errors"},
    "compile": {"spec", "plan", "errors"},
    "host": {"plan", "ioctl", "errors"},
    "image": {"plan", "files", "errors"},
    "guest": {"plan", "errors"},
    "runtime": {"compile", "host", "image", "guest", "spec", "plan", "ioctl", "files", "errors", "verdict"},
    "testing": {"runtime", "compile", "host", "image", "guest", "spec", "plan", "ioctl", "files", "errors"},
    "cli": {"kvmctl"},
    "__main__": {"cli"},
    "kvmctl": {"verdict", "runtime", "compile", "host", "image", "guest", "spec", "plan", "ioctl", "errors"},
}
"""What each package may import besides itself; ``kvmctl`` is the public API in ``kvmctl/__init__.py``, bound lazily."""

IMPURE = {"os", "io", "subprocess", "socket", "asyncio", "threading", "time", "random", "secrets", "tempfile", "shutil"}
THIRD_PARTY_HOMES = {
    "pydantic": ("kvmctl/spec/",),
    "pydantic_core": ("kvmctl/spec/",),
    "qemu": ("kvmctl/runtime/monitor.py",),
    "typer": ("kvmctl/cli/",),
    "ctypes": ("kvmctl/ioctl/", "kvmctl/image/zstd.py", "kvmctl/image/build/pretend.py"),
    "pytest": ("kvmctl/testing/plugin.py",),
    "pycdlib": ("kvmctl/image/seed.py",),
    "yaml": ("kvmctl/runtime/cloudconfig.py",),
}
PROGRAMS = {"kvmctl/ioctl/__main__.py", "kvmctl/ioctl/confine.py", "kvmctl/image/build/pretend.py"}
"""What is run as a program of its own, and not by way of the command line."""
LAZY = {
    "kvmctl/__init__.py",
    "kvmctl/cli/entry.py",
    "kvmctl/cli/main.py",
    "kvmctl/cli/session.py",
    "kvmctl/cli/starting.py",
    "kvmctl/runtime/deferred.py",
    "kvmctl/runtime/detached.py",
    "kvmctl/runtime/handle.py",
    "kvmctl/runtime/quickexec.py",
    "kvmctl/runtime/quickfork.py",
    "kvmctl/testing/__init__.py",
    "kvmctl/testing/plugin.py",
}
"""The doors through which modules are imported when they are needed, and not before."""


@dataclass(frozen=True, slots=True)
class Module:
    """One file: its path from the root, its dotted name, and its tree."""

    path: str
    tree: ast.Module

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        """``plan`` for ``kvmctl/plan/option.py``, ``kvmctl`` for the root."""
        return [*self.name.split("."), "kvmctl"][1]

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of everything imported; ``from a import b`` gives ``a.b``."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)

    def calls(self) -> Iterator[tuple[int, str]]:
        """Line and text of every function called: ``print``, ``fcntl.ioctl``."""
        calls = (node for node in ast.walk(self.tree) if isinstance(node, ast.Call))
        yield from ((node.lineno, ast.unparse(node.func)) for node in calls)


MODULES = [
    Module(str(path.relative_to(ROOT)), ast.parse(path.read_text()))
    for path in sorted((ROOT / "kvmctl").rglob("*.py"))
]  # fmt: skip
NAMES = {module.name for module in MODULES}

Finding = tuple[int, str]


def imports_point_down(module: Module) -> Iterator[Finding]:
    """An import points down the picture or stays in its package; the command line has only the public API."""
    for line, name in module.imports():
        words = name.split(".")
        if words[0] != "kvmctl":
            continue
        target = words[1] if len(words) > 1 and f"kvmctl.{words[1]}" in NAMES else "kvmctl"
        if target != module.package and target not in BELOW[module.package]:
            yield line, f"imports {name}"


def deciding_is_pure(module: Module) -> Iterator[Finding]:
    """plan, spec and compile decide and do nothing else, so that they can be tested without a machine."""
    if module.package not in {"plan", "spec", "compile"}:
        return
    for line, name in module.imports():
        if name.split(".")[0] in IMPURE:
            yield line, f"imports {name}"
    for line, function in module.calls():
        is_loader = module.path == "kvmctl/spec/load.py"  # reads exactly one file
        if function.split(".")[-1] in {"open", "read_text", "read_bytes", "uuid1", "uuid4"} and not is_loader:
            yield line, f"calls {function}"


def each_library_has_its_home(module: Module) -> Iterator[Finding]:
    """pydantic is slow to import, qemu.qmp has one skin, typer prints, ctypes holds kernel memory (and a libzstd that
    the standard library has no door to, and a seccomp filter that it has none for): one home each."""
    for line, name in module.imports():
        homes = THIRD_PARTY_HOMES.get(name.split(".")[0], ("kvmctl/",))
        if not module.path.startswith(homes):
            yield line, f"imports {name}, whose home is {homes[0]}"


def ioctls_have_their_home(module: Module) -> Iterator[Finding]:
    """KVM is spoken to under ioctl/ only; runtime/ may make tap and vhost devices by ioctl, which is not KVM, and the
    program that builds run under answers the kernel's notifications."""
    for line, function in module.calls():
        if function.endswith("ioctl") and module.package not in {"ioctl", "runtime"} and module.path not in PROGRAMS:
            yield line, f"calls {function}"


def the_cli_uses_typer_and_nothing_else(module: Module) -> Iterator[Finding]:
    """What a verb needs, the library offers: the command line has no private powers."""
    if module.package != "cli":
        return
    for line, name in module.imports():
        if name.split(".")[0] not in {"kvmctl", "typer", "__future__", *sys.stdlib_module_names}:
            yield line, f"imports {name}"


def one_printer(module: Module) -> Iterator[Finding]:
    """Only cli/output.py prints, data to stdout and talk to stderr; ``python -m kvmctl.ioctl`` is apart."""
    if module.path in {"kvmctl/cli/output.py", *PROGRAMS}:
        return
    for line, function in module.calls():
        if function in {"print", "typer.echo", "sys.stdout.write", "sys.stderr.write"}:
            yield line, f"calls {function}"


def only_the_cli_exits(module: Module) -> Iterator[Finding]:
    """A library raises; what becomes of the process is its owner's to say."""
    if module.package in {"cli", "__main__"} or module.path in PROGRAMS:
        return
    for line, function in module.calls():
        if function in {"sys.exit", "exit", "quit", "SystemExit"}:
            yield line, f"calls {function}"


def imports_are_at_the_top(module: Module) -> Iterator[Finding]:
    """What a command does not use it does not pay for: by the lazy public API, the verb table, and a few doors."""
    for function in ast.walk(module.tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    yield node.lineno, f"{ast.unparse(node)!r} inside {function.name}()"
    for line, name in module.calls():
        if name.endswith("import_module") and module.path not in LAZY:
            yield line, f"calls {name}"


def versions_are_compared_in_one_place(module: Module) -> Iterator[Finding]:
    """Elsewhere the only legal question is ``Feature.X in facts.features``."""
    if module.path == "kvmctl/plan/features.py":
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Compare) and any(
            isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for op in node.ops
        ):
            sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
            if any(side.split(".")[-1] in {"version", "qemu_version"} for side in sides):
                yield node.lineno, f"compares {ast.unparse(node)}"


RULES: list[Callable[[Module], Iterator[Finding]]] = [
    imports_point_down,
    deciding_is_pure,
    each_library_has_its_home,
    ioctls_have_their_home,
    the_cli_uses_typer_and_nothing_else,
    one_printer,
    only_the_cli_exits,
    imports_are_at_the_top,
    versions_are_compared_in_one_place,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Callable[[Module], Iterator[Finding]]) -> None:
    findings = [f"{module.path}:{line}: {what}" for module in MODULES for line, what in rule(module)]
    assert not findings, "\n".join([f"{rule.__name__}: {rule.__doc__}", *findings])


def test_no_modules_import_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        targets = {name if name in NAMES else name.rpartition(".")[0] for _, name in module.imports()}
        graph[module.name] = (targets & NAMES) - {module.name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("modules that import each other can't be read one at a time: " + " <- ".join(error.args[1]))


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (imports_point_down, "kvmctl/plan/x.py", "from kvmctl.spec import machine"),
        (imports_point_down, "kvmctl/host/x.py", "import kvmctl.image.store"),
        (imports_point_down, "kvmctl/cli/x.py", "from kvmctl.runtime.vm import launch"),
        (imports_point_down, "kvmctl/runtime/x.py", "from kvmctl import launch"),
        (deciding_is_pure, "kvmctl/spec/x.py", "import os.path"),
        (deciding_is_pure, "kvmctl/compile.py", "def f():\n    return open('x')"),
        (each_library_has_its_home, "kvmctl/plan/x.py", "from pydantic import BaseModel"),
        (each_library_has_its_home, "kvmctl/runtime/vm.py", "from qemu.qmp import QMPClient"),
        (each_library_has_its_home, "kvmctl/host/x.py", "import ctypes"),
        (ioctls_have_their_home, "kvmctl/host/kvm.py", "fcntl.ioctl(1, 2)"),
        (the_cli_uses_typer_and_nothing_else, "kvmctl/cli/x.py", "import psutil"),
        (one_printer, "kvmctl/cli/list.py", "print('web')"),
        (only_the_cli_exits, "kvmctl/runtime/vm.py", "sys.exit(1)"),
        (imports_are_at_the_top, "kvmctl/runtime/vm.py", "async def f():\n    import json"),
        (imports_are_at_the_top, "kvmctl/spec/x.py", "importlib.import_module('os')"),
        (versions_are_compared_in_one_place, "kvmctl/compile.py", "facts.version >= (9, 0, 0)"),
    ],
)
def test_each_rule_sees_what_it_forbids(rule: Callable[[Module], Iterator[Finding]], path: str, source: str) -> None:
    assert list(rule(Module(path, ast.parse(source))))
