"""The guest's clock."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from kvmctl.errors import Problem
from kvmctl.plan.option import Parameter, gathered
from kvmctl.spec.context import Context, Lowered
from kvmctl.spec.model import Bool, Model, reject, why

_TIME: Final = r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}:\d{2})?"
_ALLOWED: Final = "'utc', 'localtime', or a time like '2024-02-29T12:00:00'"


def _parse_base(value: Any) -> str:
    if value in ("utc", "localtime"):  # a set can't be asked about a list
        return str(value)
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) and re.fullmatch(_TIME, value) else value
    except ValueError:
        raise reject("is no time", allowed=_ALLOWED) from None
    if not isinstance(time, datetime) or time.tzinfo is not None:
        raise reject("is no time that a clock can start at", allowed=_ALLOWED)
    return time.strftime("%Y-%m-%dT%H:%M:%S")


class Clock(Model):
    """The real-time clock."""

    base: Annotated[str, BeforeValidator(_parse_base)] = Field(
        default="utc",
        description="What the clock shows at boot: 'utc', 'localtime' (Windows), or a time, '2024-02-29T12:00:00'.",
    )
    source: Literal["host", "rt", "vm"] = Field(
        default="host", description="What drives it: the host's clock, its monotonic one, or the guest's own time."
    )
    driftfix: Literal["none", "slew"] = Field(
        default="none", description="'slew' makes up for lost ticks, for guests that count them (Windows)."
    )
    hpet: Bool | None = Field(default=None, description="The high precision event timer; QEMU's default unless given.")


def lower(clock: Clock, ctx: Context) -> Lowered:
    """``-rtc`` and the timer's property of the machine."""
    base = why(clock, "base", "clock.base", default="UTC, as Linux takes it")
    source = why(clock, "source", "clock.source", default="the host's clock is the one that is right")
    body = {"base": Parameter(clock.base, base), "clock": Parameter(clock.source, source)}
    if ctx.platform != "microvm":
        drift = why(clock, "driftfix", "clock.driftfix", default="guests of today count no ticks")
        body["driftfix"] = Parameter(clock.driftfix, drift)
    return Lowered(
        options=(gathered("rtc", body),),
        machine=(("hpet", Parameter(clock.hpet, "clock.hpet")),) if clock.hpet is not None else (),
        problems=tuple(_problems(clock, ctx)),
    )


def _problems(clock: Clock, ctx: Context) -> Iterator[Problem]:
    if ctx.platform == "microvm" and clock.hpet is not None:
        yield Problem("clock.hpet", "a microvm has no HPET", allowed="leave it out")
    if ctx.platform == "microvm" and clock.driftfix != "none":
        yield Problem(
            "clock.driftfix", "a microvm's clock can't make up for lost ticks", f"'{clock.driftfix}'", "'none'"
        )
