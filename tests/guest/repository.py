"""A Debian repository on this host's loopback, for guests that are told to install a package."""

from __future__ import annotations

import hashlib
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that says nothing of it."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # so it is called in the base class
        """Nothing is to be said."""


@contextmanager
def repository(directory: Path, *, package: str) -> Iterator[int]:
    """The port of a repository, made in `directory`, whose one package has the file ``/usr/share/PACKAGE``."""
    served, tree = directory / "mirror", directory / "package"
    (tree / "DEBIAN").mkdir(parents=True)
    control = f"Package: {package}\nVersion: 1.0\nArchitecture: all\nMaintainer: kvmctl\nDescription: a test\n"
    (tree / "DEBIAN/control").write_text(control)
    (tree / "usr/share").mkdir(parents=True)
    (tree / f"usr/share/{package}").write_text("installed\n")
    served.mkdir()
    file = served / "package.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, file], check=True, capture_output=True)
    data = file.read_bytes()
    found = f"Filename: ./{file.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    (served / "Packages").write_text(control + found)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
