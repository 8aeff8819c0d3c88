"""The guest's memory: how much, and what it is made of on the host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from kvmctl.errors import Problem
from kvmctl.plan.option import Option, Parameter, Value, gathered, jsonopt
from kvmctl.spec.context import Context, Lowered
from kvmctl.spec.hostpath import HostPath
from kvmctl.spec.model import AlsoTakes, Bool, Int, Model, why
from kvmctl.spec.units import GIB, MIB, ByteSize, size_text

DEFAULT_SIZE = GIB
_HUGE_PAGE = 2 * MIB


def _parse_hugepages(value: Any) -> Any:
    return _HUGE_PAGE if value is True else (None if value is False else value)


class Memory(Model):
    """The guest's memory. ``memory = "1GiB"`` stands for a table with that size."""

    size: ByteSize = Field(default=DEFAULT_SIZE, description="Bytes at boot, as '2GiB'.")
    max: ByteSize | None = Field(default=None, description="Bytes that plugging in more can reach.")
    slots: Int | None = Field(
        default=None, ge=1, le=256, description="Slots for memory that is plugged in; 8 unless given, where max is."
    )
    hugepages: Annotated[ByteSize | None, BeforeValidator(_parse_hugepages), AlsoTakes(({"type": "boolean"},))] = Field(
        default=None, description="Take huge pages of the host: true for 2MiB ones, or their size."
    )
    source: Literal["anonymous", "memfd", "file"] = Field(
        default="anonymous",
        description="What the memory is on the host: 'anonymous', a 'memfd' (which other processes can map), or a "
        "'file' at path.",
    )
    path: HostPath | None = Field(default=None, description="The file or directory for source = 'file'.")
    shared: Bool = Field(
        default=False,
        description="Other processes that map the memory see what the guest writes (vhost-user needs it).",
    )
    prealloc: Bool = Field(default=False, description="Take all of it from the host before the machine starts.")
    merge: Bool = Field(
        default=False,
        description="Let the host's KSM merge pages that are equal in several machines. Guests can find out by "
        "timing what others hold, so only among machines that trust each other.",
    )

    def contradictions(self) -> Iterator[Problem]:
        """What does not go together."""
        if self.size < MIB:
            yield Problem(
                "size", "is less than 1MiB", size_text(self.size), "a plain number is in bytes; write '512MiB'"
            )
        elif self.size % 8192:
            yield Problem("size", "is not a multiple of 8KiB", size_text(self.size), "like '512MiB'")
        if self.max is not None and self.max <= self.size:
            yield Problem("max", "is not more than size", size_text(self.max), f"more than {size_text(self.size)}")
        if self.slots is not None and self.max is None:
            yield Problem("slots", "slots are for memory up to max, and there is no max", allowed="max = '4GiB'")
        if (self.path is not None) != (self.source == "file"):
            key = "path" if self.path is None else "source"
            yield Problem(key, "source = 'file' and path go together", allowed="both or neither")
        yield from self._page_problems()

    def _page_problems(self) -> Iterator[Problem]:
        page = self.hugepages
        if page is None:
            return
        if page < _HUGE_PAGE or page & (page - 1):
            yield Problem("hugepages", "is no size of a huge page", size_text(page), "true, '2MiB' or '1GiB'")
        elif self.size % page:
            yield Problem("size", f"is not a multiple of the {size_text(page)} pages", size_text(self.size))
        if self.source == "file":
            yield Problem("hugepages", "a file has the pages of its file system", allowed="path on a hugetlbfs")


def private_by(memory: Memory) -> str:
    """The key by which the memory is no other process's to map; empty where it says nothing of that."""
    if memory.gives("source") and memory.source == "anonymous" and memory.hugepages is None:
        return "memory.source"
    if memory.source == "file" and not memory.shared:
        return "memory.shared"
    return "memory.shared" if memory.gives("shared") and not memory.shared else ""


def lower(memory: Memory, ctx: Context) -> Lowered:
    """``-m`` and the memory's back end."""
    return Lowered(
        options=(_size(memory), _backend(memory, ctx)),
        machine=(("memory-backend", Parameter("ram", "default: the object of that name is what it is on the host")),),
        problems=tuple(_host_problems(memory, ctx)),
    )


def _size_why(memory: Memory) -> str:
    return why(memory, "size", "memory.size", default="enough for an ordinary Linux")


def _size(memory: Memory) -> Option:
    body = {"size": Parameter(_quantity(memory.size), _size_why(memory))}
    if memory.max is not None:
        slots = why(memory, "slots", "memory.slots", default="enough for a few sticks up to memory.max")
        body["slots"] = Parameter(memory.slots or 8, slots)
        body["maxmem"] = Parameter(_quantity(memory.max), "memory.max")
    return gathered("m", body)


def _quantity(size: int) -> str:
    """`size` as ``-m`` takes it: a plain number there is in MiB."""
    return f"{size // MIB}M" if size % MIB == 0 else f"{size}B"


def _backend(memory: Memory, ctx: Context) -> Option:
    body: dict[str, Value] = {"qom-type": "memory-backend-ram", "id": "ram", "size": memory.size}
    body |= {"share": memory.shared or bool(ctx.mapped_for), "merge": memory.merge, "prealloc": memory.prealloc}
    if memory.hugepages is not None:
        body |= {"qom-type": "memory-backend-memfd", "hugetlb": True, "hugetlbsize": memory.hugepages}
        # Without it a guest dies of SIGBUS in the middle of its work when the pages run out.
        body["prealloc"] = True
    elif memory.source == "memfd" or (memory.source == "anonymous" and ctx.mapped_for):
        body["qom-type"] = "memory-backend-memfd"
    elif memory.source == "file":
        body |= {"qom-type": "memory-backend-file", "mem-path": memory.path}
    known = _reasons(memory, ctx)
    reasons = {name: known[name] for name in body if name in known}
    return jsonopt("object", body, why=_size_why(memory), reasons=reasons)


def _reasons(memory: Memory, ctx: Context) -> dict[str, str]:
    """Why the memory's back end has the properties that it may have."""
    huge = "memory.hugepages" if memory.hugepages is not None else ""
    mapped = f"{ctx.mapped_for}: another process maps the guest's memory" if ctx.mapped_for else ""
    shared = why(memory, "shared", "memory.shared", default="QEMU alone maps it")
    prealloc = why(memory, "prealloc", "memory.prealloc", default="the host gives it as the guest uses it")
    source = why(memory, "source", "memory.source", default="the host's ordinary memory")
    return {
        "qom-type": huge or (source if memory.gives("source") else mapped or source),
        "share": shared if memory.shared else mapped or shared,
        "merge": why(memory, "merge", "memory.merge", default="what a guest holds is not to be guessed by timing"),
        "prealloc": prealloc if memory.prealloc else huge or prealloc,
        "hugetlb": huge,
        "hugetlbsize": huge,
        "mem-path": "memory.path",
    }


def _host_problems(memory: Memory, ctx: Context) -> Iterator[Problem]:
    if memory.max is not None and ctx.platform == "microvm":
        yield Problem("memory.max", "no memory can be plugged into a microvm", allowed="machine = 'q35'")
    elif memory.max is not None and not ctx.acpi:
        yield Problem("memory.max", "memory is plugged in through ACPI, and acpi is false", allowed="acpi = true")
    page = memory.hugepages
    if page is None:
        return
    free, needed = ctx.host.hugepages.get(page, 0), memory.size // page
    if free < needed:
        yield Problem(
            "memory.hugepages",
            f"needs {needed} pages of {size_text(page)} and the host has {free} free",
            allowed=f"echo {needed} > /sys/kernel/mm/hugepages/hugepages-{page // 1024}kB/nr_hugepages",
        )
