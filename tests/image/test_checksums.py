"""Publishers' checksum files, as they come."""

from __future__ import annotations

import pytest

from kvmctl.image.checksums import Digest, find_digest

NAME = "debian-12-genericcloud-amd64.qcow2"
A, B, LONG = "a" * 64, "b" * 64, "c" * 128
SIGNED = f"""-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

# {NAME}: 341246464 bytes
SHA256 ({NAME}) = {A}
# other.qcow2: 1 bytes
SHA256 (other.qcow2) = {B}
-----BEGIN PGP SIGNATURE-----

{"d" * 64}
-----END PGP SIGNATURE-----
"""


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        (f"{A}  {NAME}\n{B}  other.qcow2\n", A),
        (f"{B} *other.qcow2\r\n{A.upper()} *{NAME}\r\n", A),
        (f"{LONG}  ./{NAME}\n", LONG),
        (f"{A}  {NAME}\n{LONG}  {NAME}\n", LONG),
        (SIGNED, A),
        (f"SHA512 ({NAME}) = {LONG}\n", LONG),
    ],
    ids=["gnu", "binary", "folder", "strongest", "fedora", "freebsd"],
)
def test_the_digest_of_a_file_is_found_in_any_form(text: str, digits: str) -> None:
    assert find_digest(text, NAME) == Digest.of(digits)


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{A}  x{NAME}\n",
        f"{A}\n",
        f"MD5 ({NAME}) = {'a' * 32}\n",
        f"{'a' * 40}  {NAME}\n",
        f"{'a' * 96}  {NAME}\n",
        "<html>404</html>",
    ],
    ids=["empty", "other", "nameless", "md5", "sha1", "sha384", "html"],
)
def test_what_is_no_digest_of_the_file_is_none(text: str) -> None:
    assert find_digest(text, NAME) is None


def test_a_file_of_one_is_of_that_whatever_it_calls_it() -> None:
    assert find_digest(f"{LONG}\n", NAME, is_of_one=True) == Digest.of(LONG)
    assert find_digest(f"{A}  Snapshot20261101.qcow2\n", NAME, is_of_one=True) == Digest.of(A)
    assert find_digest(f"{A}  one.qcow2\n{B}  two.qcow2\n", NAME, is_of_one=True) is None


@pytest.mark.parametrize("text", [f"sha256:{A}", f"SHA256:{A.upper()}"])
def test_a_digest_is_read_with_its_algorithm(text: str) -> None:
    digest = Digest.parse(text)
    assert digest == Digest("sha256", A)
    assert str(digest) == f"sha256:{A}"


@pytest.mark.parametrize("text", ["", A, f"sha512:{A}", f"md5:{A}", "sha256:12", f"sha256:{'z' * 64}"])
def test_what_is_no_digest_is_not_read_as_one(text: str) -> None:
    assert Digest.parse(text) is None
