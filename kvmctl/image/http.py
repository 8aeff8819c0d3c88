"""GET over HTTP: ranges, redirects, proxies from the environment, and errors that name the address.

The standard library's client with only the handlers that are wanted: what is downloaded comes from http and https and
from nowhere else, whatever a redirect says.
"""

from __future__ import annotations

import re
import ssl
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from kvmctl.errors import DownloadError

CHUNK: Final = 256 << 10
_AGENT: Final = "kvmctl (image pull)"
_NETWORK: Final = (OSError, HTTPException)


class Cut(Exception):
    """The connection broke in the middle of an answer."""


class NotSatisfiable(Exception):
    """The server has nothing of the range that was asked for (416)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer, and its body to be read once."""

    url: str
    """Where it came from in the end."""
    start: int
    """The first byte of the body in the whole file."""
    total: int | None
    """Bytes of the whole file; None where the server does not say."""
    validator: str | None
    """What tells this version of the file from others: a strong ETag, or the time of its last change."""
    body: HTTPResponse

    def pieces(self) -> Iterator[bytes]:
        """The body, piece by piece. Raises Cut where it ends too soon, or nothing comes for too long."""
        try:
            while piece := self.body.read1(CHUNK):
                yield piece
        except _NETWORK as error:
            raise Cut(_words(error)) from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but where `is_strict` not away from https."""

    def __init__(self, *, is_strict: bool) -> None:
        self._is_strict = is_strict

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> Any:
        """The request for where the answer sends us. Raises DownloadError."""
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if self._is_strict and before == "https" and after != "https":
            fp.close()
            raise DownloadError(f"{req.full_url} redirects to {newurl}, and nothing could vouch for what is there")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def get(
    url: str, *, start: int = 0, validator: str | None = None, patience: float, is_strict: bool = False
) -> Iterator[Answer]:
    """The file at `url` from byte `start` on, if it still is the version that `validator` is of, else from its first.

    `patience` is how many seconds may pass without a byte. Raises DownloadError, NotSatisfiable.
    """
    url, request = shown(url), _request(url)
    if start:
        request.add_header("Range", f"bytes={start}-")
        if validator is not None:
            request.add_header("If-Range", validator)
    try:
        response = _opener(is_strict=is_strict).open(request, timeout=patience)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # Range Not Satisfiable
            raise NotSatisfiable from error
        words = " ".join(str(error.reason).split())
        raise DownloadError(f"{url}: the server says {error.code} {words}") from error
    except urllib.error.URLError as error:
        raise _unreachable(url, error.reason) from error
    except (*_NETWORK, ValueError) as error:
        raise _unreachable(url, error) from error
    with response:
        yield _answer(url, response, asked=start)


def get_text(url: str, *, limit: int, patience: float) -> str:
    """The small text file at `url`, which nothing vouches for but the way it came. Raises DownloadError."""
    with get(url, patience=patience, is_strict=True) as answer:
        url, body = shown(url), b""
        try:
            for piece in answer.pieces():
                body += piece
                if len(body) > limit:
                    raise DownloadError(f"{url} is larger than {limit} bytes, which no file of checksums is")
        except Cut as error:
            raise DownloadError(f"{url}: {error}") from error
        if answer.total is not None and len(body) < answer.total:
            raise DownloadError(f"{url}: the connection was closed after {len(body)} of {answer.total} bytes")
    return body.decode(errors="replace")


def _opener(*, is_strict: bool) -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(is_strict=is_strict),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def shown(url: str) -> str:
    """`url` without the user and password that it may hold: for messages and records."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _request(url: str) -> urllib.request.Request:
    request = urllib.request.Request(shown(url))  # noqa: S310  # the opener has no handler for files
    request.add_header("User-Agent", _AGENT)
    request.add_header("Accept-Encoding", "identity")
    user, _, _ = urlsplit(url).netloc.rpartition("@")
    if user:  # for this server, and for none that it redirects to
        request.add_unredirected_header("Authorization", f"Basic {b64encode(unquote(user).encode()).decode()}")
    return request


def _answer(url: str, response: HTTPResponse, *, asked: int) -> Answer:
    head = response.headers
    if head.get("Content-Encoding", "identity").lower() != "identity":
        raise DownloadError(f"{url}: the server sends it encoded as {head['Content-Encoding']!r}, unasked")
    length = head.get("Content-Length", "")
    total = int(length) if length.isdecimal() else None
    start = 0
    if response.status == 206:  # Partial Content
        start, total = _range(head.get("Content-Range", ""), url)
        if start != asked:
            raise DownloadError(f"{url}: asked for bytes from {asked} on, the server sends those from {start} on")
    tag = head.get("ETag")
    validator = tag if tag and not tag.startswith("W/") else head.get("Last-Modified")
    return Answer(response.url, start, total, validator, response)


def _range(text: str, url: str) -> tuple[int, int]:
    """First byte and whole length of ``bytes 100-199/1000``; of an unknown length, what it is at least."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", text.strip())
    if match is None:
        raise DownloadError(f"{url}: the server sends a part and does not say which: {text!r}")
    first, last, total = match.groups()
    return int(first), int(last) + 1 if total == "*" else int(total)


def _unreachable(url: str, reason: object) -> DownloadError:
    return DownloadError(f"{url}: {urlsplit(url).netloc} can't be reached: {_words(reason)}")


def _words(reason: object) -> str:
    """Why, in a few words: what Python says of network errors comes in many forms."""
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason) or type(reason).__name__
