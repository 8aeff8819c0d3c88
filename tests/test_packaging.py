"""The wheel: built by way of the source distribution, installed where there is nothing else, and run."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    _run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel and what it depends on, and nothing else."""
    home = tmp_path_factory.mktemp("empty")
    venv.create(home, with_pip=True)
    wheel = next(dist.glob("*.whl"))
    _run([str(home / "bin/python"), "-m", "pip", "install", "--quiet", str(wheel)], cwd=home)
    return home / "bin"


def test_the_wheel_holds_every_file_of_the_package_and_its_license(dist: Path) -> None:
    with ZipFile(next(dist.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "kvmctl").rglob("*") if path.is_file()}
    assert {name for name in package if "__pycache__" not in name} == {
        name for name in names if name.startswith("kvmctl/")
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_says_that_it_is_a_plugin_of_pytest(dist: Path) -> None:
    with ZipFile(next(dist.glob("*.whl"))) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
        assert "[pytest11]\nkvmctl = kvmctl.testing.plugin\n" in wheel.read(name).decode()


def test_the_source_distribution_holds_what_is_needed_to_test_it(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "scripts/test", "tests/test_packaging.py"} <= names
    assert not [name for name in names if name.startswith((".venv", ".git/", "dist"))]


def test_the_installed_command_runs_outside_the_tree(installed: Path, tmp_path: Path) -> None:
    version = _run([str(installed / "kvmctl"), "--version"], cwd=tmp_path)
    assert version == _run([str(installed / "python"), "-m", "kvmctl", "--version"], cwd=tmp_path)
    assert "kernel" in _run([str(installed / "kvmctl"), "argv", "tiny"], cwd=tmp_path)
    where = _run([str(installed / "python"), "-c", "import kvmctl; print(kvmctl.__file__)"], cwd=tmp_path)
    assert where.startswith(str(installed.parent))


@pytest.mark.qemu
def test_the_installed_command_runs_the_guest_that_came_with_it(installed: Path, tmp_path: Path) -> None:
    roots = {f"KVMCTL_{part}_DIR": str(tmp_path / part.lower()) for part in ("CONFIG", "STATE", "RUNTIME", "CACHE")}
    for words in (
        ("start", "tiny"),
        ("wait", "tiny", "--for", "console:^READY", "--timeout", "60"),
        ("stop", "tiny"),
        ("rm", "tiny", "--yes"),
    ):
        _run([str(installed / "kvmctl"), *words], cwd=tmp_path, **roots)


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_see_the_installed_package(installed: Path, tmp_path: Path, checker: str) -> None:
    program = Path(sys.executable).with_name(checker)
    if not program.exists():
        pytest.skip(f"{checker} is not installed")
    for name in ("typing_user.py", "typing_star.py"):
        (tmp_path / name).write_text((ROOT / "tests" / name).read_text())
    python = str(installed / "python")
    options = {"mypy": ["--strict", "--python-executable", python], "pyright": ["--pythonpath", python]}
    _run([str(program), *options[checker], str(tmp_path)], cwd=tmp_path)


def _run(command: list[str], *, cwd: Path, **variables: str) -> str:
    """The output of `command`, which sees no Python path or environment of ours."""
    ours = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in ours} | variables
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"
    return done.stdout
