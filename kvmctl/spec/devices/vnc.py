"""The VNC server: a Unix socket of the machine's own unless an address is given, and then never without protection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from kvmctl.errors import Problem
from kvmctl.plan.features import Feature
from kvmctl.plan.model import CopySecret, Input, Port, Step, StoreSecret
from kvmctl.plan.option import Option, Value, jsonopt, keyvals
from kvmctl.plan.paths import SUN_PATH_MAX, fits_sun_path
from kvmctl.spec.context import At, Context, Lowered
from kvmctl.spec.devices.device import Device
from kvmctl.spec.devices.input import input_device
from kvmctl.spec.hostpath import HostPath
from kvmctl.spec.model import Bool, reject
from kvmctl.spec.units import Variable

FIRST_PORT: Final = 5900
"""The port of VNC's display 0."""
FIRST_WEBSOCKET: Final = 5700
"""The port of display 0 for browsers."""
_MOST: Final = 65535
_SECRET: Final = "vnc-password"  # noqa: S105  # the id of the object that holds it
_TLS: Final = "vnc-tls"


def _parse_address(value: Any) -> str:
    try:
        return str(ip_address(value)) if isinstance(value, str) else _no_address()
    except ValueError:
        return _no_address()


def _no_address() -> str:
    raise reject("is no IP address", allowed="like '127.0.0.1', '::1', or '0.0.0.0' for all of the host's")


def _parse_port(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and FIRST_PORT <= value <= _MOST):
        return value
    raise reject("is no port for VNC", allowed=f"'auto', or {FIRST_PORT} to {_MOST}")


def _parse_websocket(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, int) and 0 < value <= _MOST):
        return value
    raise reject("is no websocket", allowed=f"true, false, or a port from 1 to {_MOST}")


class Vnc(Device):
    """The VNC server. ``vnc = true`` is one on a Unix socket of the machine's own."""

    socket: HostPath | None = Field(
        default=None, description="The Unix socket; vnc.sock in the machine's run directory unless given."
    )
    address: Annotated[str, BeforeValidator(_parse_address)] | None = Field(
        default=None, description="Listen on this IP address instead; needs a password or TLS. 127.0.0.1 with a port."
    )
    port: Annotated[int | Literal["auto"], BeforeValidator(_parse_port)] | None = Field(
        default=None, description="The TCP port, 5900 and up; 'auto' takes the first that is free of a hundred."
    )
    password_file: HostPath | None = Field(
        default=None,
        description="A file that holds the password; a line break after it does not count. VNC looks at 8 characters.",
    )
    password_env: Variable | None = Field(
        default=None, description="An environment variable that holds the password when kvmctl runs."
    )
    tls: HostPath | None = Field(
        default=None, description="A directory with ca-cert.pem, server-cert.pem and server-key.pem: encrypt."
    )
    tls_verify: Bool = Field(default=True, description="Ask viewers for a certificate of that authority.")
    websocket: Annotated[bool | int, BeforeValidator(_parse_websocket)] = Field(
        default=False, description="Serve browsers too: true on port 5700 plus the display's number, or on a port."
    )

    def contradictions(self) -> Iterator[Problem]:
        """What does not go together."""
        if self._is_tcp and self.socket is not None:
            yield Problem("socket", "is given with an address or a port", allowed="one of the two")
        if self._is_tcp and not self._has_password and self.tls is None:
            where = "address" if self.address is not None else "port"
            yield Problem(
                where,
                "VNC on TCP lets everybody in who reaches it",
                allowed="password_file, password_env or tls; or a Unix socket, without address and port",
            )
        if self.password_file is not None and self.password_env is not None:
            yield Problem("password_env", "the password is given twice", allowed="password_file or password_env")
        if self.websocket and not self._is_tcp:
            yield Problem("websocket", "browsers can't reach a Unix socket", allowed="address = ... and port = ...")
        if not self.tls_verify and self.tls is None:
            yield Problem("tls_verify", "there is no TLS", allowed="tls = ...")

    @property
    def _is_tcp(self) -> bool:
        return self.address is not None or self.port is not None

    @property
    def _has_password(self) -> bool:
        return self.password_file is not None or self.password_env is not None

    def lower(self, ctx: Context, at: At) -> Lowered:
        """The server, and the objects that hold its password and certificates."""
        password = ctx.paths.secret(_SECRET) if self._has_password else None
        server = Lowered(
            options=(*self._objects(at, password), self._server(ctx, at)),
            steps=tuple(self._steps(ctx, at)),
            inputs=tuple(self._inputs(at)),
            ports=tuple(self._ports(at)),
            problems=tuple(self._problems(ctx, at)),
        )
        return server if ctx.has_inputs else server + _pointer(ctx, at)

    def _steps(self, ctx: Context, at: At) -> Iterator[Step]:
        if self.password_file is not None:
            yield CopySecret(self.password_file, ctx.paths.secret(_SECRET), f"{at.key}.password_file")
        if self.password_env is not None:
            yield StoreSecret(self.password_env, ctx.paths.secret(_SECRET), f"{at.key}.password_env")

    def _server(self, ctx: Context, at: At) -> Option:
        body: dict[str, Value] = {}
        if self.port in {None, "auto"} and self._is_tcp:
            body["to"] = 99
        if self._has_password:
            body["password-secret"] = _SECRET
        if self.tls is not None:
            body["tls-creds"] = _TLS
        if self.websocket:
            body["websocket"] = self.websocket
        return keyvals("vnc", self._listener(ctx), body, why=at.why)

    def _listener(self, ctx: Context) -> str:
        if not self._is_tcp:
            return f"unix:{self.socket or ctx.paths.vnc}"
        display = self.port - FIRST_PORT if isinstance(self.port, int) else 0
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{display}"

    @property
    def _host(self) -> str:
        return self.address or "127.0.0.1"

    def _objects(self, at: At, password: str | None) -> Iterator[Option]:
        if password is not None:
            yield jsonopt("object", {"qom-type": "secret", "id": _SECRET, "file": password}, why=at.why)
        if self.tls is not None:
            body = {"qom-type": "tls-creds-x509", "id": _TLS, "endpoint": "server", "dir": self.tls}
            yield jsonopt("object", {**body, "verify-peer": self.tls_verify}, why=f"{at.key}.tls")

    def _inputs(self, at: At) -> Iterator[Input]:
        if self.password_file is not None:
            yield Input(self.password_file, f"{at.key}.password_file")
        if self.tls is not None:
            for name in ("ca-cert.pem", "server-cert.pem", "server-key.pem"):
                yield Input(f"{self.tls}/{name}", f"{at.key}.tls")

    def _ports(self, at: At) -> Iterator[Port]:
        if isinstance(self.port, int):
            yield Port(self._host, self.port, f"{at.key}.port")
            if self.websocket is True:
                yield Port(self._host, FIRST_WEBSOCKET + self.port - FIRST_PORT, f"{at.key}.websocket")
        if self._is_tcp and self.websocket and self.websocket is not True:
            yield Port(self._host, self.websocket, f"{at.key}.websocket")

    def _problems(self, ctx: Context, at: At) -> Iterator[Problem]:
        path = self.socket or ctx.paths.vnc
        if not self._is_tcp and not fits_sun_path(path):
            key = f"{at.key}.socket" if self.socket else at.key
            message = f"the socket's path has {len(path.encode())} bytes and a Unix socket's at most {SUN_PATH_MAX}"
            yield Problem(key, message, f"'{path}'", "socket = a shorter path, or an address")
        if Feature.VNC not in ctx.qemu.features:
            yield Problem(at.key, f"QEMU {ctx.qemu.version_text} ({ctx.qemu.path}) was built without VNC")
        if self.tls is not None and Feature.TLS not in ctx.qemu.features:
            yield Problem(f"{at.key}.tls", f"QEMU {ctx.qemu.version_text} ({ctx.qemu.path}) was built without TLS")


def _pointer(ctx: Context, at: At) -> Lowered:
    """What a viewer needs besides the PS/2 keyboard and mouse of a PC; a microvm has neither."""
    because = replace(at, why=f"{at.why}: so that the pointer is where the viewer's is")
    tablet = input_device("tablet", None, ctx, because, index=0)
    return tablet + input_device("keyboard", None, ctx, at, index=1) if ctx.platform == "microvm" else tablet
