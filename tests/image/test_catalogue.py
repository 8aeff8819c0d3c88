"""The catalogue: every entry is complete, and the user's file adds to it and is told what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kvmctl import Roots, StateError, available_images
from kvmctl.image.catalogue import load_catalogue
from kvmctl.image.pull import split_suffix
from kvmctl.plan.paths import is_name

BUILTIN = load_catalogue("/nonexistent")


@pytest.mark.parametrize("name", BUILTIN)
def test_an_image_that_comes_with_kvmctl_is_complete(name: str) -> None:
    entry = BUILTIN[name]
    assert is_name(name)
    assert entry.title != name
    assert entry.user
    for address in (entry.url, entry.checksums):
        assert address is not None
        assert urlsplit(address).scheme == "https"
        assert "{" not in address
        assert "//" not in urlsplit(address).path
    assert split_suffix(entry.url.rpartition("/")[2])[1] in {"qcow2", None}
    assert entry.format == "qcow2"


def test_every_distribution_that_is_promised_is_there() -> None:
    families = {name.rstrip("0123456789.").rstrip("-") for name in BUILTIN}
    assert families == {
        "debian", "ubuntu", "fedora", "almalinux", "rocky", "opensuse-leap", "opensuse-tumbleweed", "arch", "alpine",
        "freebsd",
    }  # fmt: skip


def write(roots: Roots, text: str) -> None:
    Path(roots.config).mkdir()
    Path(roots.catalogue).write_text(text)


def test_a_user_adds_releases_and_families_and_overrides_keys(roots: Roots) -> None:
    write(
        roots,
        """
        [debian]
        mirrors = ["http://mirror.example/{codename}/debian-{release}.qcow2"]
        releases.14 = { codename = "forky" }
        [acme]
        url = "http://images.example/acme.img"
        digest = "sha256:"""
        + "a" * 64
        + '"\nformat = "raw"\n',
    )
    found = {entry.name: entry for entry in available_images(roots)}
    assert found["debian-14"].url == BUILTIN["debian-13"].url.replace("trixie", "forky").replace("-13-", "-14-")
    assert found["debian-12"].mirrors == ("http://mirror.example/bookworm/debian-12.qcow2",)
    assert (found["acme"].format, found["acme"].checksums, found["acme"].user) == ("raw", None, None)
    assert (found["acme"].shell, found["acme"].become) == (None, "sudo")
    assert set(found) == {*BUILTIN, "debian-14", "acme"}


@pytest.mark.parametrize(
    ("name", "shell", "become"),
    [("debian-12", "/bin/bash", "sudo"), ("alpine-3.22", None, "doas"), ("freebsd-14.4", None, "doas")],
)
def test_it_is_known_what_shell_people_have_and_how_they_become_root(name: str, shell: str | None, become: str) -> None:
    assert (BUILTIN[name].shell, BUILTIN[name].become) == (shell, become)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "images.toml' is wrong: "),
        ("acme = 3", "acme: must be a table"),
        ('[acme]\nurl = "http://x/a.raw"', "acme: needs 'checksums' or 'digest', and not both"),
        ('[acme]\nchecksums = "SHA256SUMS"', "acme.url: must be an http or https address, and is ''"),
        ('[acme]\nurl = "ftp://x/a.raw"\nchecksums = "S"', "acme.url: must be an http or https address, and is 'ftp:"),
        ('[acme]\nurl = "http://x/{a}.raw"', "acme.url: names {a}, and the release does not say what that is"),
        ("[acme]\nurl = 3", "acme.url: must be text in quotes"),
        ('[acme]\nurll = "http://x/a.raw"', "acme.urll: unknown key; did you mean 'url'?"),
        ("[acme]\nreleases = [1]", "acme.releases: must be a table of tables"),
        ('[acme]\nurl = "http://x/a"\ndigest = "12"', "acme.digest: is no checksum: '12'"),
        ('[acme]\nurl = "http://x/a"\nchecksums = "S"\nformat = "vdi"', "acme.format: must be 'qcow2' or 'raw'"),
        ('[acme]\nurl = "http://x/a"\nchecksums = "S"\nshell = "sh"', "acme.shell: must be the path of a program in"),
        ('[acme]\nurl = "http://x/a"\nchecksums = "S"\nbecome = "su"', "acme.become: must be 'sudo' or 'doas'"),
        ('[acme]\nurl = "http://x/a"\nchecksums = "S"\narch = "arm"', "acme.arch: must be 'x86_64'"),
        ('[acme]\nurl = "http://x/a"\nchecksums = "S"\nmirrors = "m"', "acme.mirrors: must be a list of addresses"),
        ('["a b"]\nurl = "http://x/a"\nchecksums = "S"', "a b: 'a b' can't be the name of an image"),
    ],
)  # fmt: skip
def test_a_wrong_catalogue_is_told_where_it_is_wrong(roots: Roots, text: str, words: str) -> None:
    write(roots, text)
    with pytest.raises(StateError) as caught:
        available_images(roots)
    assert words in str(caught.value)
    assert caught.value.exit_code == 14
