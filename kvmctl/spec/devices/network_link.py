"""Links between machines without a network of the host: a stream or datagrams over a Unix socket or an address."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import ClassVar, Literal

from pydantic import Field

from kvmctl.errors import Problem
from kvmctl.plan.features import Feature
from kvmctl.plan.model import Port
from kvmctl.plan.option import Value
from kvmctl.plan.paths import SUN_PATH_MAX, fits_sun_path
from kvmctl.spec.context import At, Context, Lowered
from kvmctl.spec.devices.nic import Nic
from kvmctl.spec.model import Bool
from kvmctl.spec.netaddr import Endpoint, split_endpoint


class StreamNetwork(Nic):
    """A card at one end of a stream."""

    kind: ClassVar[str] = "stream"

    type: Literal["stream"] = Field(description="A cable to one other machine, or to a switch, as a stream.")
    address: Endpoint = Field(description="The stream's place: a path with a slash in it, or 'ADDRESS:PORT'.")
    server: Bool = Field(default=False, description="Wait there for the other end; else connect to it.")

    def lower(self, ctx: Context, at: At) -> Lowered:
        """The stream and the card."""
        body: dict[str, Value] = {"server": self.server, "addr": _address(self.address), **self._reconnect(ctx)}
        path, host, port = split_endpoint(self.address)
        stream = Lowered(
            options=(self.netdev(at, body),),
            ports=(Port(host, port, f"{at.key}.address"),) if self.server and not path else (),
            problems=_too_long(self.address, f"{at.key}.address"),
            warnings=self._warnings(ctx, at),
        )
        return stream + self.card(ctx, at)

    def _reconnect(self, ctx: Context) -> dict[str, Value]:
        """A client waits for its server, and comes back to it when it was away."""
        if self.server:
            return {}
        if Feature.STREAM_RECONNECT_MS in ctx.qemu.features:
            return {"reconnect-ms": 1000}
        return {"reconnect": 1} if Feature.STREAM_RECONNECT in ctx.qemu.features else {}

    def _warnings(self, ctx: Context, at: At) -> tuple[str, ...]:
        if self.server or self._reconnect(ctx):
            return ()
        once = f"QEMU {ctx.qemu.version_text} connects to {self.address} once: start the machine at the other end first"
        return (f"{at.key}: {once}",)


class DgramNetwork(Nic):
    """A card whose frames are datagrams."""

    kind: ClassVar[str] = "dgram"

    type: Literal["dgram"] = Field(description="A cable to another machine, or to a multicast group, as datagrams.")
    local: Endpoint | None = Field(default=None, description="Our end: a path with a slash in it, or 'ADDRESS:PORT'.")
    remote: Endpoint | None = Field(default=None, description="The other end, or a multicast group's 'ADDRESS:PORT'.")

    def contradictions(self) -> Iterator[Problem]:
        """What does not go together."""
        yield from super().contradictions()
        if self.remote is None:
            yield Problem("remote", "is missing: nothing says where frames go", allowed="a path, or 'ADDRESS:PORT'")
        elif self.local is None and not _is_multicast(self.remote):
            yield Problem("local", "is missing: nothing could come back", allowed="only a multicast group needs none")
        elif self.local is not None and ("/" in self.local) != ("/" in self.remote):
            yield Problem(
                "local", "one end is a path and the other an address", f"'{self.local}'", "two paths, or two addresses"
            )

    def lower(self, ctx: Context, at: At) -> Lowered:
        """Both ends and the card."""
        ends = {"local": self.local, "remote": self.remote}
        body: dict[str, Value] = {key: _address(end) for key, end in ends.items() if end is not None}
        problems = tuple(
            problem for key, end in ends.items() if end is not None for problem in _too_long(end, f"{at.key}.{key}")
        )
        return Lowered(options=(self.netdev(at, body),), problems=problems) + self.card(ctx, at)


class NoNetwork(Nic):
    """A card with no cable in it."""

    kind: ClassVar[str] = "none"

    type: Literal["none"] = Field(description="A card that is connected to nothing.")

    def lower(self, ctx: Context, at: At) -> Lowered:
        """The card alone."""
        return self.card(ctx, at, is_connected=False)


def _address(endpoint: str) -> dict[str, Value]:
    """The endpoint as QEMU's SocketAddress; ports are strings there."""
    path, host, port = split_endpoint(endpoint)
    return {"type": "unix", "path": path} if path else {"type": "inet", "host": host, "port": str(port)}


def _is_multicast(endpoint: str) -> bool:
    path, host, _ = split_endpoint(endpoint)
    return not path and ip_address(host).is_multicast


def _too_long(endpoint: str, key: str) -> tuple[Problem, ...]:
    """QEMU itself binds and connects these, and knows no way around the limit."""
    path, _, _ = split_endpoint(endpoint)
    if fits_sun_path(path):
        return ()
    message = f"has {len(path.encode())} bytes and a Unix socket's path at most {SUN_PATH_MAX}"
    return (Problem(key, message, f"'{path}'", "a shorter path"),)
