"""The small types of a spec, one value at a time; what they refuse is in tests/data/wrong-specs.txt."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from kvmctl.spec.netaddr import Endpoint, Forward, MacAddress, PortForward, split_endpoint
from kvmctl.spec.units import ByteSize, Id, Line, MachineName, size_text
from kvmctl.spec.words import did_you_mean


def read(kind: Any, value: object) -> Any:
    """`value` as the type takes it."""
    return TypeAdapter(kind).validate_python(value)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("512MiB", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("0.5KiB", 512),
        (" 2 TiB ", 2 << 40),
        ("100B", 100),
        (4096, 4096),
        (0, 0),
        ("8388607TiB", 8388607 << 40),
    ],
)
def test_a_size_is_a_number_of_bytes(written: object, size: int) -> None:
    assert read(ByteSize, written) == size


@pytest.mark.parametrize(
    "written",
    ["1G", "1GB", "1gib", "", "MiB", "-1MiB", "1,5GiB", "\u0661MiB", "8388608TiB", 1 << 63, 1.5, True, None],
)
def test_a_size_that_could_be_misread_is_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        read(ByteSize, written)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (512, "512B"), (1536, "1536B"), (1 << 20, "1MiB"), (3 << 29, "1536MiB")]
)
def test_a_size_is_written_in_the_unit_that_fits(size: int, text: str) -> None:
    assert size_text(size) == text
    assert read(ByteSize, text) == size


@pytest.mark.parametrize("name", ["a", "web-1", "Debian_12.5", "0", "x" * 64])
def test_machine_names(name: str) -> None:
    assert read(MachineName, name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "a/b", "a b", "a\n", "a,b", "ü", "x" * 65, "a..b", "a\0"])
def test_names_that_could_leave_their_directory_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        read(MachineName, name)


def test_ids_leave_room_for_what_is_made_of_them() -> None:
    assert read(Id, "a" + "0" * 23)
    for name in ("A", "0a", "a.b", "a" * 25):
        with pytest.raises(ValidationError):
            read(Id, name)


@pytest.mark.parametrize("line", ["", "a, b=c", "tab-less", "ünïcödé", "a\u00a0b", "日本"])
def test_a_line_is_anything_one_can_read(line: str) -> None:
    assert read(Line, line) == line


@pytest.mark.parametrize("line", ["a\nb", "a\tb", "\x1b[1m", "a\0", "a\u2028b", "a\x7f"])
def test_a_line_has_no_control_characters(line: str) -> None:
    with pytest.raises(ValidationError):
        read(Line, line)


def test_mac_addresses_are_kept_in_lower_case() -> None:
    assert read(MacAddress, "52:54:00:AB:CD:EF") == "52:54:00:ab:cd:ef"


@pytest.mark.parametrize("mac", ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "52-54-00-ab-cd-ef", "525400abcdef", 52])
def test_addresses_no_card_can_have_are_refused(mac: object) -> None:
    with pytest.raises(ValidationError):
        read(MacAddress, mac)


@pytest.mark.parametrize(
    ("written", "forward"),
    [
        ("2222->22", PortForward("tcp", "127.0.0.1", 2222, "", 22)),
        ("udp:5353->53", PortForward("udp", "127.0.0.1", 5353, "", 53)),
        ("tcp:0.0.0.0:0->10.0.2.15:80", PortForward("tcp", "0.0.0.0", 0, "10.0.2.15", 80)),
        (":80->80", PortForward("tcp", "127.0.0.1", 80, "", 80)),
    ],
)
def test_a_forward_leads_from_the_host_to_the_guest(written: str, forward: PortForward) -> None:
    assert read(Forward, written) == forward
    assert read(Forward, str(forward)) == forward


@pytest.mark.parametrize("written", ["22", "22->", "->22", "sctp:1->2", "1->2->3", "a->b", "1 -> 2", "70000->1", 22])
def test_what_leads_nowhere_is_no_forward(written: object) -> None:
    with pytest.raises(ValidationError):
        read(Forward, written)


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("/run/link.sock", ("/run/link.sock", "", 0)),
        ("127.0.0.1:5000", ("", "127.0.0.1", 5000)),
        ("[::1]:5000", ("", "::1", 5000)),
    ],
)
def test_an_endpoint_is_a_path_or_an_address(written: str, parts: tuple[str, str, int]) -> None:
    assert split_endpoint(read(Endpoint, written)) == parts


@pytest.mark.parametrize("written", ["link.sock", "localhost:80", "127.0.0.1", "127.0.0.1:0", "1.2.3.4:99999", "", 5])
def test_an_endpoint_that_could_be_either_is_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        read(Endpoint, written)


@pytest.mark.parametrize(
    ("given", "guess"),
    [
        ("read-only", "did you mean 'read_only'? "),
        ("CACHE", "did you mean 'cache'? "),
        ("memoy", "did you mean 'memory'? "),
        ("xyz", ""),
    ],
)
def test_the_nearest_word_is_proposed(given: str, guess: str) -> None:
    assert did_you_mean(given, ["cache", "read_only", "memory"]) == guess
