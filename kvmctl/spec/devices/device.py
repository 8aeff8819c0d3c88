"""What every device of a spec is: a table that lowers itself."""

from __future__ import annotations

from typing import ClassVar

from kvmctl.spec.context import At, Context, Lowered
from kvmctl.spec.model import Model


class Device(Model):
    """A device. `reason` says why it is there when the spec does not mention it."""

    reason: ClassVar[str] = ""

    def lower(self, ctx: Context, at: At) -> Lowered:
        """What the device comes to on the command line and in the plan."""
        raise NotImplementedError
