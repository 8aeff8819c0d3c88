"""The commands of a guest agent that runs things on this host: what QEMU's agent does, without needing it."""

from __future__ import annotations

import base64
import errno
import os
import subprocess
import tempfile
from collections.abc import Callable
from itertools import count
from typing import IO, Any

from kvmctl.testing.fakeagent import Command, Refusal

WHENCE = {"set": os.SEEK_SET, "cur": os.SEEK_CUR, "end": os.SEEK_END}


class LocalCommands:
    """guest-exec and guest-file-*, as QEMU's docs/interop/qemu-ga-ref has them."""

    def __init__(self) -> None:
        self._processes: dict[int, tuple[subprocess.Popen[bytes], list[IO[bytes]]]] = {}
        self.files: dict[int, IO[bytes]] = {}
        self._handles = count(1000)

    def table(self) -> dict[str, Command]:
        named: dict[str, Callable[..., object]] = {
            "guest-exec": self.exec,
            "guest-exec-status": self.status,
            "guest-file-open": self.open,
            "guest-file-read": self.read,
            "guest-file-write": self.write,
            "guest-file-flush": lambda handle: {},
            "guest-file-seek": self.seek,
            "guest-file-close": self.close,
        }
        return {name: self._refusing(command) for name, command in named.items()}

    @staticmethod
    def _refusing(command: Callable[..., object]) -> Command:
        def run(arguments: dict[str, Any]) -> object:
            try:
                return command(**{key.replace("-", "_"): value for key, value in arguments.items()})
            except (OSError, KeyError) as error:
                raise Refusal("GenericError", str(error)) from error

        return run

    def exec(self, path: str, arg: list[str], input_data: str = "", *, capture_output: bool = False) -> object:
        files = [tempfile.TemporaryFile() for _ in range(2)] if capture_output else []  # noqa: SIM115
        with tempfile.TemporaryFile() as stdin:
            stdin.write(base64.b64decode(input_data))
            stdin.seek(0)
            output = dict(zip(("stdout", "stderr"), files, strict=False))
            try:
                process = subprocess.Popen([path, *arg], stdin=stdin, **output)  # type: ignore[call-overload]
            except OSError:
                for file in files:
                    file.close()
                raise
        self._processes[process.pid] = process, files
        return {"pid": process.pid}

    def status(self, pid: int) -> object:
        for other, _ in self._processes.values():
            other.poll()  # an agent collects its children whether they are asked after or not
        process, files = self._processes[pid]
        code = process.poll()
        if code is None:
            return {"exited": False}
        del self._processes[pid]
        reply: dict[str, object] = {"exited": True, **({"signal": -code} if code < 0 else {"exitcode": code})}
        for key, file in zip(("out-data", "err-data"), files, strict=False):
            with file:
                file.seek(0)
                reply[key] = base64.b64encode(file.read()).decode()
        return reply

    def open(self, path: str, mode: str) -> int:
        handle = next(self._handles)
        self.files[handle] = open(path, mode + "b", buffering=0)  # noqa: SIM115
        os.set_blocking(self.files[handle].fileno(), False)
        return handle

    def write(self, handle: int, buf_b64: str) -> object:
        data = base64.b64decode(buf_b64)
        count = self.files[handle].write(data)
        if count is None:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return {"count": count, "eof": False}

    def read(self, handle: int, count: int) -> object:
        data = self.files[handle].read(count)
        return {"count": len(data), "buf-b64": base64.b64encode(data).decode(), "eof": len(data) < count}

    def seek(self, handle: int, offset: int, whence: str) -> object:
        return {"position": self.files[handle].seek(offset, WHENCE[whence]), "eof": False}

    def close(self, handle: int) -> object:
        self.files.pop(handle).close()
        return {}

    def clear(self) -> None:
        """End what was started and not asked after."""
        for process, files in self._processes.values():
            process.kill()
            process.wait()
            for file in files:
                file.close()
        for file in self.files.values():
            file.close()
