"""The seed as others see it: xorriso reads what was written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kvmctl.guest.cloudinit import seed_files
from kvmctl.image.seed import seed_image

from .recipes import given, recipe

FILES = seed_files(recipe(), given())


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    path = tmp_path / "seed.iso"
    path.write_bytes(seed_image(FILES))
    return path


def xorriso(seed: Path, *words: str) -> str:
    argv = ["xorriso", "-no_rc", "-abort_on", "WARNING", "-indev", str(seed), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_label_is_what_cloud_init_looks_for(seed: Path) -> None:
    lines = [line.split(":") for line in xorriso(seed, "-pvd_info").splitlines()]
    assert ["Volume Id", "CIDATA"] in [[word.strip() for word in words] for words in lines]
    assert seed.read_bytes()[0x8028:0x8048] == b"CIDATA".ljust(32)


@pytest.mark.parametrize("names", ["rockridge", "joliet"])
def test_every_file_is_there_by_its_full_name(seed: Path, tmp_path: Path, names: str) -> None:
    options = ["-read_fs", "norock"] if names == "joliet" else []
    out = tmp_path / "out"
    argv = ["xorriso", "-no_rc", "-osirrox", "on", *options, "-indev", str(seed), "-extract", "/", str(out)]
    subprocess.run(argv, capture_output=True, check=True, timeout=60)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == FILES


def test_a_network_configuration_is_in_it(seed: Path) -> None:
    assert "'/network-config'" in xorriso(seed, "-find", "/", "-type", "f")


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 2049, 3_000_000])
def test_files_of_any_size_are_read_back(tmp_path: Path, size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    (tmp_path / "seed.iso").write_bytes(seed_image({"user-data": data}))
    argv = ["xorriso", "-no_rc", "-osirrox", "on", "-indev", str(tmp_path / "seed.iso")]
    subprocess.run([*argv, "-extract", "/user-data", str(tmp_path / "back")], capture_output=True, check=True)
    assert (tmp_path / "back").read_bytes() == data
