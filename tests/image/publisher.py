"""A publisher of images on this host, who serves ranges, and breaks off, lies and dawdles when told to."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class File:
    """What is served at a path, and how."""

    content: bytes = field(default=b"", repr=False)
    status: int = 200
    etag: str | None = None
    location: str | None = None
    """Redirect there."""
    ranges: bool = True
    heeds_if_range: bool = True
    has_length: bool = True
    length: int | None = None
    """The length to be claimed, whatever there is."""
    cut_after: int | None = None
    """Close the connection after so many bytes of a body."""
    hold_after: int | None = None
    """Send nothing more after so many bytes of a body, until the publisher's `released` is set."""
    encoding: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came."""

    path: str
    range: str | None
    if_range: str | None
    authorization: str | None


@dataclass(slots=True)
class Publisher:
    """Files by path, and what was asked for them; change `files` at any time."""

    url: str = ""
    files: dict[str, File] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    """Somebody is being kept waiting."""
    released: threading.Event = field(default_factory=threading.Event)
    on_request: Callable[[Asked], None] = lambda asked: None

    def put(self, path: str, content: bytes, **how: Any) -> str:
        """Serve `content` at `path`; its address."""
        self.files[path] = File(content, **how)
        return self.url + path

    def change(self, path: str, **how: Any) -> None:
        """Serve what is at `path` in another way from now on."""
        self.files[path] = replace(self.files[path], **how)

    def gets(self, path: str) -> list[str | None]:
        """The ranges that were asked for of `path`, None for all of it."""
        return [asked.range for asked in self.asked if asked.path == path]


@contextmanager
def publishing(*, certificate: Path | None = None) -> Iterator[Publisher]:
    """A publisher on a port of its own, gone at the end; with a `certificate` (and its key) one that speaks TLS."""
    publisher = Publisher()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            with suppress(OSError):
                _answer(self, publisher)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    publisher.url = f"{'http' if certificate is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield publisher
    finally:
        publisher.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(handler: BaseHTTPRequestHandler, publisher: Publisher) -> None:
    asked = Asked(handler.path, *(handler.headers[name] for name in ("Range", "If-Range", "Authorization")))
    publisher.asked.append(asked)
    publisher.on_request(asked)
    file = publisher.files.get(handler.path, File(status=404))
    if file.location is not None:
        _head(handler, 302, {"Location": file.location, "Content-Length": "0"})
        return
    if file.status != 200:
        _head(handler, file.status, {"Content-Length": "0"})
        return
    start = _start(asked, file)
    if start is not None and start >= len(file.content):
        _head(handler, 416, {"Content-Length": "0"})
        return
    body = file.content[start or 0 :]
    headers = {"Connection": "close"}
    if file.etag:
        headers["ETag"] = file.etag
    if file.encoding:
        headers["Content-Encoding"] = file.encoding
    if start is not None:
        headers["Content-Range"] = f"bytes {start}-{len(file.content) - 1}/{len(file.content)}"
    if file.has_length:
        headers["Content-Length"] = str(len(body) if file.length is None else file.length)
    _head(handler, 200 if start is None else 206, headers)
    _body(handler, body, file, publisher)


def _start(asked: Asked, file: File) -> int | None:
    match = re.fullmatch(r"bytes=(\d+)-", asked.range or "")
    is_changed = file.heeds_if_range and asked.if_range is not None and asked.if_range != file.etag
    return None if match is None or not file.ranges or is_changed else int(match[1])


def _body(handler: BaseHTTPRequestHandler, body: bytes, file: File, publisher: Publisher) -> None:
    if file.hold_after is not None:
        handler.wfile.write(body[: file.hold_after])
        publisher.held.set()
        publisher.released.wait(30)
        body = body[file.hold_after :]
    handler.wfile.write(body if file.cut_after is None else body[: file.cut_after])


def _head(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
