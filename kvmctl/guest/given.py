"""What the sources of a first boot's recipe have come to, so that rendering it is pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvmctl.plan.guest import GuestUser, Source
from kvmctl.plan.sshkey import key_lines


@dataclass(frozen=True, slots=True)
class Given:
    """The bytes of every source, and the machine's own keys."""

    contents: Mapping[Source, bytes]
    client_key: str
    """The public key that kvmctl logs in with."""
    host_key: str
    """The guest's private key, as OpenSSH keeps it."""
    host_key_public: str

    def keys(self, sources: tuple[Source, ...]) -> tuple[str, ...]:
        """The public keys in `sources`, kvmctl's own first, each once."""
        lines = (line for source in sources for line in key_lines(self.contents[source].decode()))
        return tuple(dict.fromkeys((self.client_key, *lines)))

    def password(self, user: GuestUser) -> str | None:
        """The password of `user`, or its hash."""
        return None if user.password is None else self.contents[user.password].decode()


HIDDEN = "(hidden)"
"""What stands for a secret where it is only shown."""
