"""Freezing a guest's file systems, so that what is on its disks is whole, and thawing them."""

from __future__ import annotations

from kvmctl.errors import AgentError
from kvmctl.guest.agent import Agent
from kvmctl.guest.reply import take

PATIENCE = 60.0
"""Seconds that freezing may take: everything that is to be written is, first."""


async def freeze(agent: Agent) -> int:
    """Freeze all file systems that can be; how many there were. Raises AgentError, DeadlineExceeded."""
    async with agent.session(patience=PATIENCE) as session:
        return take({"count": await session.execute("guest-fsfreeze-freeze")}, "count", int)


async def thaw(agent: Agent) -> int:
    """Thaw what is frozen; how many file systems that were. Raises AgentError, DeadlineExceeded."""
    return take({"count": await agent.execute("guest-fsfreeze-thaw")}, "count", int)


async def is_frozen(agent: Agent) -> bool:
    """Whether file systems are frozen, by the agent that froze them. Raises AgentError, DeadlineExceeded."""
    status = take({"status": await agent.execute("guest-fsfreeze-status")}, "status", str)
    if status not in {"frozen", "thawed"}:
        raise AgentError(f"the guest agent says that the file systems are {status[:100]!r}")
    return status == "frozen"
