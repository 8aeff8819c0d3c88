"""What machines of tests can be made from: names of machines and of images, files, and several of them in one test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import kvmctl
from kvmctl.runtime.prepare import load_machine
from kvmctl.testing.blueprint import Blueprint
from kvmctl.testing.lab import Lab, Settings

from .conftest import Run, running

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.qemu


def own_spec(path: Path, *, memory: str) -> None:
    text = Path(kvmctl.find_spec("tiny")).read_text()
    path.write_text(text.replace('"16MiB"', f'"{memory}"').replace('"tiny"', f'"{path.stem}"'))


def test_a_test_and_its_factory_have_machines_of_other_specs(pytester: pytest.Pytester, run: Run) -> None:
    own_spec(pytester.path / "small.toml", memory="20MiB")
    own_spec(pytester.path / "large.toml", memory="24MiB")
    kvmctl.define(pytester.path / "large.toml")
    pytester.makepyfile("""
        import pytest

        def of(guest):
            return guest.vm.plan.spec["name"], guest.vm.plan.memory >> 20

        @pytest.mark.vm(spec="small.toml")
        def test_of_a_file(vm, vm_factory):
            assert of(vm) == ("small", 20)
            assert of(vm_factory(spec="large")) == ("large", 24)
            assert of(vm_factory()) == ("tiny", 16)
            assert of(vm_factory(spec="small.toml", memory="28MiB")) == ("small", 28)

        @pytest.mark.vm(spec="large")
        def test_of_a_name(vm):
            assert of(vm) == ("large", 24)
    """)
    run().assert_outcomes(passed=2)


def test_the_name_of_an_image_stands_for_a_machine_of_it(
    pytester: pytest.Pytester, run: Run, directories: Path
) -> None:
    blank = pytester.path / "blank.raw"
    blank.write_bytes(bytes(1 << 20))
    kvmctl.import_image(blank)
    pytester.makepyfile("""
        import pytest

        pytestmark = pytest.mark.vm(until="console:No bootable device", memory="64MiB", guest=None, networks=[])

        @pytest.mark.vm(spec="blank")
        def test_of_a_name(vm):
            assert vm.vm.plan.spec["name"] == "blank"
            assert vm.vm.plan.spec["disks"][0]["image"] == "blank"
            assert vm.vm.plan.memory == 64 << 20

        @pytest.mark.vm(spec="image:blank")
        def test_of_the_image_itself(vm): pass
    """)
    run().assert_outcomes(passed=2)
    run("--vm-cold", "-k", "itself").assert_outcomes(passed=1)
    (name,) = kvmctl.template_names()
    assert name.startswith("pytest-blank-")
    assert running(directories) == []


@pytest.mark.parametrize("keys", [{}, {"memory": "2GiB"}])
def test_an_image_of_the_catalogue_is_read_as_everywhere(keys: dict[str, str]) -> None:
    lab = Lab(Settings(root="/", spec="debian-12"))
    try:
        machine = lab.order(Blueprint(keys=keys)).machine
    finally:
        lab.close()
    everywhere = load_machine("debian-12")
    assert machine.memory.size == (2 << 30 if keys else everywhere.memory.size)
    assert machine.model_dump(exclude={"memory"}) == everywhere.model_dump(exclude={"memory"})
    assert machine.source == "image:debian-12" + (" with what the test changes" if keys else "")


def test_an_image_that_is_not_there_is_told_with_the_way_to_it(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile('import pytest\n@pytest.mark.vm(spec="debian-12")\ndef test_it(vm): pass')
    result = run()
    result.assert_outcomes(errors=1)
    assert "kvmctl image pull debian-12" in result.stdout.str()


def test_files_that_a_test_leaves_of_its_machine_fail_it(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        import os, pytest

        @pytest.fixture
        def afterwards():
            names = []
            yield names  # set up before the machine, and so torn down after it
            for name in names:
                os.makedirs(os.path.join(os.environ["KVMCTL_STATE_DIR"], "machines", name, "disks"))

        def test_leaves(afterwards, vm):
            afterwards.append(vm.name)

        def test_next(afterwards, vm): pass
    """)
    result = run()
    result.assert_outcomes(passed=2, errors=1)
    place = os.path.join(os.environ["KVMCTL_STATE_DIR"], "machines", "test-leaves-")
    result.stdout.fnmatch_lines(["*the test has left behind:", f"  {place}*"])
