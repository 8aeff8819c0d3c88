"""Pulling images from publishers good and bad: what is right is in the store, and nothing else ever is."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from hashlib import sha512
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import kvmctl
from kvmctl import DigestMismatch, DownloadError, ImageError, NotFound, PullProgress, Roots, StateError

from .conftest import CONTENT, OTHER, SIZE, catalogue, digest_of, files_under
from .publisher import Publisher, publishing

ROOT = Path(__file__).parents[2]


def pull(roots: Roots, reference: str = "acme-1", **how: object) -> kvmctl.PulledImage:
    return kvmctl.pull_image(reference, roots=roots, **how)  # type: ignore[arg-type]


def stored(roots: Roots) -> list[str]:
    return files_under(roots.images)


def content_of(roots: Roots, image: kvmctl.Image) -> bytes:
    return Path(roots.images, "sha256", image.digest).read_bytes()


def test_an_image_is_pulled_by_name_and_kept_under_its_digest(acme: Publisher, roots: Roots) -> None:
    pulled = pull(roots)
    image = pulled.image
    assert not pulled.was_there
    assert (image.name, image.format, image.size, image.digest) == ("acme-1", "raw", SIZE, digest_of(CONTENT))
    assert image.vouched == f"sha256:{digest_of(CONTENT)}"
    assert image.source == f"{acme.url}/acme-1.raw"
    assert stored(roots) == ["names/acme-1.json", f"sha256/{image.digest}"]
    assert stat.S_IMODE(os.stat(f"{roots.images}/sha256/{image.digest}").st_mode) == 0o400
    assert content_of(roots, image) == CONTENT
    assert files_under(roots.downloads) == []


def test_progress_is_told_to_the_last_byte(acme: Publisher, roots: Roots) -> None:
    told: list[PullProgress] = []
    pull(roots, on_progress=told.append)
    assert told[-1] == PullProgress("acme-1", "downloading", SIZE, SIZE)
    assert [news.done for news in told] == sorted(news.done for news in told)


def test_what_is_there_is_not_pulled_again_until_its_publisher_has_another(acme: Publisher, roots: Roots) -> None:
    first = pull(roots).image
    assert pull(roots).was_there
    assert len(acme.gets("/acme-1.raw")) == 1
    acme.put("/acme-1.raw", OTHER)
    acme.put("/SHA256SUMS", f"{digest_of(OTHER)}  acme-1.raw\n".encode())
    second = pull(roots)
    assert not second.was_there
    assert second.image.digest == digest_of(OTHER)
    assert content_of(roots, first) == CONTENT  # machines that began with it keep it
    assert [item.path for item in kvmctl.collect_images(roots=roots)] == [f"{roots.images}/sha256/{first.digest}"]


def test_a_wrong_digest_is_told_and_nothing_is_kept(acme: Publisher, roots: Roots) -> None:
    acme.change("/acme-1.raw", content=OTHER)
    with pytest.raises(DigestMismatch) as caught:
        pull(roots)
    assert caught.value.exit_code == 18
    assert f"expected sha256:{digest_of(CONTENT)}" in caught.value.detail
    assert f"received sha256:{digest_of(OTHER)}" in caught.value.detail
    assert stored(roots) == files_under(roots.downloads) == []
    assert len(acme.gets("/acme-1.raw")) == 1  # it came in one piece: another try would bring the same


def test_a_connection_that_breaks_is_taken_up_where_it_broke(acme: Publisher, roots: Roots) -> None:
    acme.change("/acme-1.raw", cut_after=1 << 20)
    assert content_of(roots, pull(roots).image) == CONTENT
    assert acme.gets("/acme-1.raw") == [None, f"bytes={1 << 20}-", f"bytes={2 << 20}-"]


def test_a_server_that_always_breaks_off_is_given_up_and_the_beginning_kept(acme: Publisher, roots: Roots) -> None:
    acme.change("/acme-1.raw", cut_after=1000)
    with pytest.raises(DownloadError, match=r"the connection was closed, after 4000 of 3145728 bytes") as caught:
        pull(roots)
    assert "goes on from there" in caught.value.hint
    assert stored(roots) == []
    acme.change("/acme-1.raw", cut_after=None)
    assert content_of(roots, pull(roots).image) == CONTENT
    assert acme.gets("/acme-1.raw")[-1] == "bytes=4000-"


def test_a_server_without_ranges_is_asked_for_all_of_it_again(acme: Publisher, roots: Roots) -> None:
    acme.change("/acme-1.raw", cut_after=1000)
    with pytest.raises(DownloadError):
        pull(roots)
    acme.change("/acme-1.raw", cut_after=None, ranges=False)
    assert content_of(roots, pull(roots).image) == CONTENT


def test_an_image_that_changes_between_ranges_is_begun_anew(acme: Publisher, roots: Roots) -> None:
    acme.change("/acme-1.raw", cut_after=1 << 20, content=OTHER)
    acme.on_request = lambda asked: asked.range and acme.put("/acme-1.raw", CONTENT)  # type: ignore[assignment, return-value, func-returns-value]
    assert content_of(roots, pull(roots).image) == CONTENT
    assert acme.gets("/acme-1.raw") == [None, f"bytes={1 << 20}-", None]


def test_a_beginning_is_of_no_use_once_the_publisher_has_another_image(acme: Publisher, roots: Roots) -> None:
    acme.change("/acme-1.raw", cut_after=1000)
    with pytest.raises(DownloadError):
        pull(roots)
    acme.put("/acme-1.raw", OTHER)
    acme.put("/SHA256SUMS", f"{digest_of(OTHER)}  acme-1.raw\n".encode())
    assert content_of(roots, pull(roots).image) == OTHER
    assert acme.gets("/acme-1.raw")[-1] is None


def test_an_address_is_resumed_only_while_its_server_has_the_same(publisher: Publisher, roots: Roots) -> None:
    url = publisher.put("/a.raw", OTHER, etag='"one"', cut_after=1000)
    with pytest.raises(DownloadError):
        pull(roots, url)
    publisher.put("/a.raw", CONTENT, etag='"two"')
    assert content_of(roots, pull(roots, url).image) == CONTENT
    assert publisher.asked[-1].range == "bytes=4000-"
    assert publisher.asked[-1].if_range == '"one"'


def test_an_address_whose_server_tells_no_versions_apart_is_begun_anew(publisher: Publisher, roots: Roots) -> None:
    url = publisher.put("/a.raw", OTHER, cut_after=1000)
    with pytest.raises(DownloadError):
        pull(roots, url)
    publisher.put("/a.raw", CONTENT)
    assert content_of(roots, pull(roots, url).image) == CONTENT
    assert publisher.gets("/a.raw") == [None] * 5


def test_a_beginning_that_was_written_before_a_power_cut_is_not_believed(publisher: Publisher, roots: Roots) -> None:
    url = publisher.put("/a.raw", CONTENT, etag='"one"', cut_after=1000)
    with pytest.raises(DownloadError):
        pull(roots, url)
    (record,) = Path(roots.downloads).glob("*.json")
    record.write_text(record.read_text().replace('"boot": "', '"boot": "before '))
    publisher.change("/a.raw", cut_after=None)
    pull(roots, url)
    assert publisher.gets("/a.raw")[-1] is None


@pytest.mark.parametrize("length", [SIZE + 1000, 10])
def test_a_server_that_lies_about_the_size_is_not_believed(acme: Publisher, roots: Roots, length: int) -> None:
    acme.change("/acme-1.raw", length=length, ranges=False)
    with pytest.raises(DownloadError):
        pull(roots)
    assert stored(roots) == []


def test_an_image_of_unknown_length_is_taken_as_it_comes(acme: Publisher, roots: Roots) -> None:
    acme.change("/acme-1.raw", has_length=False)
    assert content_of(roots, pull(roots).image) == CONTENT
    acme.change("/acme-1.raw", cut_after=1000)
    kvmctl.remove_image("acme-1", roots=roots)
    with pytest.raises(DigestMismatch):  # who does not say how much there is can't be told from one that breaks off
        pull(roots)
    assert stored(roots) == []


@pytest.mark.parametrize(("status", "words"), [(404, "404 Not Found"), (500, "500 Internal Server Error")])
def test_a_server_that_refuses_is_quoted(acme: Publisher, roots: Roots, status: int, words: str) -> None:
    acme.change("/acme-1.raw", status=status)
    with pytest.raises(DownloadError, match=f"/acme-1.raw: the server says {words}"):
        pull(roots)
    acme.change("/SHA256SUMS", status=status)
    with pytest.raises(DownloadError, match=f"/SHA256SUMS: the server says {words}"):
        pull(roots)
    assert files_under(roots.downloads) == []


def test_a_silent_server_is_left(acme: Publisher, roots: Roots) -> None:
    acme.change("/acme-1.raw", hold_after=100)
    with pytest.raises(DownloadError, match="no answer in time"):
        pull(roots, patience=0.2)
    assert stored(roots) == []


def test_a_host_that_is_not_there_is_named(roots: Roots) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DownloadError, match=f"127.0.0.1:{port} can't be reached: Connection refused"):
        pull(roots, f"http://somebody:secret@127.0.0.1:{port}/a.raw")
    assert files_under(roots.downloads) == []


def test_a_password_in_an_address_is_for_its_server_alone(publisher: Publisher, roots: Roots) -> None:
    with publishing() as other:
        other.put("/a.raw", CONTENT)
        publisher.put("/a.raw", b"", location=f"{other.url}/a.raw")
        image = pull(roots, publisher.url.replace("//", "//somebody:p%40ss@") + "/a.raw").image
        assert [asked.authorization for asked in other.asked] == [None]
    assert [asked.authorization for asked in publisher.asked] == ["Basic c29tZWJvZHk6cEBzcw=="]
    assert image.source == f"{publisher.url}/a.raw"


def test_checksums_without_the_image_are_an_error_before_anything_is_downloaded(acme: Publisher, roots: Roots) -> None:
    acme.put("/SHA256SUMS", f"{digest_of(CONTENT)}  acme-2.raw\n".encode())
    with pytest.raises(DownloadError, match=r"SHA256SUMS has no SHA-256 or SHA-512 checksum of 'acme-1.raw'"):
        pull(roots)
    assert acme.gets("/acme-1.raw") == []


def test_checksums_without_an_end_are_left(acme: Publisher, roots: Roots) -> None:
    acme.put("/SHA256SUMS", bytes(5 << 20))
    with pytest.raises(DownloadError, match="is larger than 4194304 bytes"):
        pull(roots)


def test_checksums_that_are_cut_off_are_not_believed(acme: Publisher, roots: Roots) -> None:
    acme.change("/SHA256SUMS", cut_after=10)
    with pytest.raises(DownloadError, match="the connection was closed after 10 of 77 bytes"):
        pull(roots)


def test_redirects_are_followed_to_http_and_nowhere_else(acme: Publisher, roots: Roots, tmp_path: Path) -> None:
    acme.put("/moved.raw", CONTENT)
    acme.put("/acme-1.raw", b"", location=f"{acme.url}/moved.raw")
    assert content_of(roots, pull(roots).image) == CONTENT
    secret = tmp_path / "secret.raw"
    secret.write_bytes(CONTENT)
    acme.put("/acme-1.raw", b"", location=secret.as_uri())
    kvmctl.remove_image("acme-1", roots=roots)
    with pytest.raises(DownloadError, match="is not allowed"):
        pull(roots)
    acme.put("/acme-1.raw", b"", location=f"{acme.url}/acme-1.raw")
    with pytest.raises(DownloadError, match="redirect"):
        pull(roots)


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The certificate and key of a server on this host, which this process trusts."""
    path = tmp_path / "server.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=here -keyout {path} -out {path}.crt"
    subprocess.run([*command.split(), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return path


def test_checksums_are_not_taken_from_a_redirect_that_leaves_https(
    acme: Publisher, roots: Roots, certificate: Path
) -> None:
    with publishing(certificate=certificate) as secure:
        secure.put("/acme-1.raw", b"", location=f"{acme.url}/acme-1.raw")
        secure.put("/SHA256SUMS", acme.files["/SHA256SUMS"].content)
        catalogue(roots, acme=f'url = "{secure.url}/acme-{{release}}.raw"\nchecksums = "SHA256SUMS"\nformat = "raw"')
        pull(roots)  # the image itself may come from anywhere
        assert len(acme.gets("/acme-1.raw")) == 1
        secure.put("/SHA256SUMS", b"", location=f"{acme.url}/SHA256SUMS")
        with pytest.raises(DownloadError, match="SHA256SUMS, and nothing could vouch for what is there"):
            pull(roots)
    assert acme.gets("/SHA256SUMS") == []


def test_a_server_that_can_not_prove_who_it_is_is_left(
    roots: Roots, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with publishing(certificate=certificate) as impostor:
        impostor.put("/a.raw", CONTENT)
        with pytest.raises(DownloadError, match=r"can't be reached: .*certificate verify failed"):
            pull(roots, f"{impostor.url}/a.raw")
    assert stored(roots) == []


def test_a_server_that_speaks_no_http_is_told(roots: Roots) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(DownloadError, match=r"can't be reached: 220 mail\.example ESMTP"):
            pull(roots, f"http://127.0.0.1:{server.getsockname()[1]}/a.raw")
        thread.join()


def test_an_image_goes_over_from_a_cache_on_another_file_system(acme: Publisher, roots: Roots) -> None:
    with TemporaryDirectory(dir="/dev/shm") as memory:
        elsewhere = roots._replace(cache=memory)
        if os.stat(memory).st_dev == os.stat(roots.config).st_dev:
            pytest.skip("/dev/shm is no file system of its own here")
        image = pull(elsewhere).image
        assert files_under(elsewhere.downloads) == []
    assert content_of(roots, image) == CONTENT
    assert stored(roots) == ["names/acme-1.json", f"sha256/{image.digest}"]


def test_what_comes_encoded_unasked_is_refused(acme: Publisher, roots: Roots) -> None:
    acme.change("/acme-1.raw", encoding="gzip")
    with pytest.raises(DownloadError, match="encoded as 'gzip'"):
        pull(roots)


def test_a_range_that_was_not_asked_for_is_refused(acme: Publisher, roots: Roots) -> None:
    acme.change("/acme-1.raw", cut_after=1000)
    with pytest.raises(DownloadError):
        pull(roots)
    with socket.create_server(("127.0.0.1", 0)) as liar:
        port = liar.getsockname()[1]
        catalogue(roots, acme=f'url = "{acme.url}/acme-{{release}}.raw"\nchecksums = "SHA256SUMS"\nformat = "raw"\n'
                  f'mirrors = ["http://127.0.0.1:{port}/acme.raw"]')  # fmt: skip

        def lie() -> None:
            connection, _ = liar.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 7-9/10\r\n\r\nabc")

        thread = threading.Thread(target=lie)
        thread.start()
        acme.change("/acme-1.raw", status=404)
        with pytest.raises(DownloadError) as caught:
            pull(roots)
        thread.join()
    assert "asked for bytes from 4000 on, the server sends those from 7 on" in caught.value.detail


def test_mirrors_come_first_and_the_publisher_when_they_fail(acme: Publisher, roots: Roots) -> None:
    with publishing() as bad, publishing() as good:
        bad.put("/mirror/acme-1.raw", OTHER)
        mirrors = [f"{publisher.url}/mirror/acme-{{release}}.raw" for publisher in (bad, good)]
        catalogue(roots, acme=f'url = "{acme.url}/acme-{{release}}.raw"\nchecksums = "SHA256SUMS"\nformat = "raw"\n'
                  f"mirrors = {mirrors}")  # fmt: skip
        assert content_of(roots, pull(roots).image) == CONTENT
        assert [len(one.asked) for one in (bad, good)] == [1, 1]
        good.put("/mirror/acme-1.raw", CONTENT)
        kvmctl.remove_image("acme-1", roots=roots)
        pull(roots)
    assert len(acme.gets("/acme-1.raw")) == 1


def test_when_every_place_fails_each_says_why(acme: Publisher, roots: Roots) -> None:
    acme.change("/acme-1.raw", content=OTHER)
    catalogue(roots, acme=f'url = "{acme.url}/acme-{{release}}.raw"\nchecksums = "SHA256SUMS"\nformat = "raw"\n'
              f'mirrors = ["{acme.url}/gone.raw"]')  # fmt: skip
    with pytest.raises(DigestMismatch, match="from none of 2 places") as caught:
        pull(roots)
    assert "/gone.raw: the server says 404" in caught.value.detail
    assert "/acme-1.raw gives is not what" in caught.value.detail


def test_proxies_of_the_environment_are_honoured(
    acme: Publisher, roots: Roots, monkeypatch: pytest.MonkeyPatch
) -> None:
    with publishing() as proxy:
        address = "http://images.example/acme-1.raw"
        proxy.put(address, CONTENT)
        monkeypatch.setenv("http_proxy", proxy.url)
        pull(roots, address)
        assert [asked.path for asked in proxy.asked] == [address]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        pull(roots)
        assert len(proxy.asked) == 1


SMALL = CONTENT[: 64 << 10]
PACKERS = {".xz": lzma.compress, ".gz": gzip.compress, ".bz2": bz2.compress}


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_packed_image_is_checked_packed_and_kept_unpacked(publisher: Publisher, roots: Roots, suffix: str) -> None:
    packed = PACKERS[suffix](SMALL)
    url = publisher.put(f"/a.raw{suffix}", packed)
    image = pull(roots, url, digest=f"sha512:{sha512(packed).hexdigest()}").image
    assert image.name == "a"
    assert content_of(roots, image) == SMALL
    assert files_under(roots.downloads) == []


def test_a_packed_image_that_is_broken_is_told_and_nothing_is_kept(publisher: Publisher, roots: Roots) -> None:
    url = publisher.put("/a.raw.xz", lzma.compress(SMALL)[:-1000])
    with pytest.raises(ImageError, match=r"a.raw.xz can't be unpacked"):
        pull(roots, url)
    assert stored(roots) == files_under(roots.downloads) == []


def test_an_image_that_names_a_file_of_this_host_is_refused(publisher: Publisher, roots: Roots) -> None:
    header = b"QFI\xfb" + (3).to_bytes(4) + (104).to_bytes(8) + (11).to_bytes(4)
    url = publisher.put("/a.qcow2", header.ljust(104, b"\0") + b"/etc/shadow" + bytes(1 << 20))
    with pytest.raises(ImageError, match=r"'a.qcow2' is an overlay of '/etc/shadow'"):
        pull(roots, url)
    assert stored(roots) == files_under(roots.downloads) == []


def test_two_pulls_at_once_share_one_download(acme: Publisher, roots: Roots) -> None:
    acme.change("/acme-1.raw", hold_after=1000)
    pulled: list[kvmctl.PulledImage] = []
    waiting = threading.Event()

    def second(news: PullProgress) -> None:
        assert news.phase == "waiting"
        assert str(os.getpid()) in news.note
        waiting.set()

    threads = [threading.Thread(target=lambda: pulled.append(pull(roots)))]
    threads[0].start()
    assert acme.held.wait(30)
    threads.append(threading.Thread(target=lambda: pulled.append(pull(roots, on_progress=second))))
    threads[1].start()
    assert waiting.wait(30)
    acme.released.set()
    for thread in threads:
        thread.join()
    assert sorted(one.was_there for one in pulled) == [False, True]  # whoever was first
    assert pulled[0].image == pulled[1].image
    assert [asked.path for asked in acme.asked] == ["/SHA256SUMS", "/acme-1.raw"]


def test_a_pull_that_is_killed_leaves_nothing_in_the_store_and_the_next_goes_on(acme: Publisher, roots: Roots) -> None:
    acme.change("/acme-1.raw", hold_after=2 << 20)
    source = (
        "import kvmctl; kvmctl.pull_image('acme-1', on_progress=lambda news: print(news.done, flush=True), "
        f"roots=kvmctl.{roots!r})"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 2 << 20:
            pass
        process.send_signal(signal.SIGKILL)
    assert stored(roots) == []
    acme.released.set()
    acme.change("/acme-1.raw", hold_after=None)
    assert content_of(roots, pull(roots).image) == CONTENT
    assert acme.gets("/acme-1.raw") == [None, f"bytes={2 << 20}-"]
    assert files_under(roots.downloads) == []


def test_what_a_killed_pull_left_is_collected(acme: Publisher, roots: Roots) -> None:
    acme.change("/acme-1.raw", cut_after=1000)
    with pytest.raises(DownloadError):
        pull(roots)
    left = files_under(roots.downloads)
    assert len(left) == 2
    assert sorted(os.path.basename(item.path) for item in kvmctl.collect_images(dry_run=True, roots=roots)) == left
    kvmctl.collect_images(roots=roots)
    assert files_under(roots.downloads) == []


def test_an_image_that_is_being_pulled_is_not_collected(acme: Publisher, roots: Roots) -> None:
    acme.change("/acme-1.raw", hold_after=1000)
    thread = threading.Thread(target=lambda: pull(roots))
    thread.start()
    assert acme.held.wait(30)
    assert kvmctl.collect_images(roots=roots) == []
    acme.released.set()
    thread.join()
    assert stored(roots) != []


def test_an_unknown_image_is_told_with_the_nearest_ones(roots: Roots) -> None:
    with pytest.raises(NotFound, match="the catalogue has no image 'debain-12'") as caught:
        pull(roots, "debain-12")
    assert "'debian-12'" in caught.value.hint


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.org/a.qcow2", "is no http or https address"),
        ("http://127.0.0.1/a.img", "can't be told from its name"),
        ("http://127.0.0.1/a%20b.qcow2", "no image can be called"),
    ],
)
def test_an_address_that_says_too_little_is_refused(roots: Roots, url: str, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        pull(roots, url)


def test_a_digest_that_is_none_is_refused(roots: Roots) -> None:
    with pytest.raises(ImageError, match="'sha256:12' is no checksum"):
        pull(roots, "http://127.0.0.1/a.raw", digest="sha256:12")


def test_a_download_directory_that_is_not_ours_is_told(acme: Publisher, roots: Roots) -> None:
    os.makedirs(os.path.dirname(roots.downloads))
    Path(roots.downloads).write_text("")
    with pytest.raises(StateError, match="is in the way"):
        pull(roots)
