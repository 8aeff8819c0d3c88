"""What a fork's guest is given, so that it is no other's twin. Pure, and quick to import.

May import nothing but the standard library.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

SEED_BYTES: Final = 64
"""Of randomness: twice what the kernel's generator holds."""
ERRORS: Final = {
    1: "was told too little",
    2: "can't seed the random numbers",
    3: "can't set the clock",
    4: "can't set the host name",
}
"""What the program that renews a guest could not do, by its exit code."""


class Renewal(NamedTuple):
    """What a guest is given: the time in nanoseconds since the epoch, `SEED_BYTES` of randomness, a host name."""

    now: int
    seed: bytes
    hostname: str = ""

    def dumps(self) -> bytes:
        """As the program reads it: a ``timespec``, a ``rand_pool_info`` and the name."""
        time = struct.pack("<qq", *divmod(self.now, 10**9))
        return time + struct.pack("<ii", 8 * len(self.seed), len(self.seed)) + self.seed + self.hostname.encode()
