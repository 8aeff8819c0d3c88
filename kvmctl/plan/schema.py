"""A QEMU's own description of its monitor commands (``query-qmp-schema``), made walkable.

Introspection masks the names of types, so everything is reached from a command or an event and never by the name of a
type. QEMU's docs/devel/qapi-code-gen.rst, "Client JSON Protocol introspection", describes the entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Entry: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Member:
    """One key of an object: its masked type, and whether it may be left out."""

    name: str
    type: str
    optional: bool
    marks: frozenset[str]
    """QAPI features of the member, ``deprecated`` and ``unstable`` among them."""


@dataclass(frozen=True, slots=True)
class Schema:
    """The entries of one QEMU by name: commands, events and (masked) types have no name in common."""

    entries: Mapping[str, Entry] = field(default_factory=dict)

    @classmethod
    def of(cls, reply: Iterable[Entry]) -> Schema:
        """The schema in the reply to ``query-qmp-schema``."""
        return cls({entry["name"]: entry for entry in reply})

    def find_command(self, name: str) -> Entry | None:
        """The command's entry: its ``arg-type`` and ``ret-type``."""
        return self._find_named(name, "command")

    def find_event(self, name: str) -> Entry | None:
        """The event's entry: its ``arg-type``."""
        return self._find_named(name, "event")

    def type(self, name: str) -> Entry:
        """The type of that masked name."""
        return self.entries[name]

    def commands(self) -> list[str]:
        """The names of all commands, sorted."""
        return sorted(entry["name"] for entry in self.entries.values() if entry["meta-type"] == "command")

    def members(self, type_name: str, value: Mapping[str, Any]) -> dict[str, Member]:
        """The keys an object of that type may have, those of the variant that `value`'s tag selects among them."""
        entry = self.type(type_name)
        found = {item["name"]: _member(item) for item in entry["members"]}
        chosen = value.get(entry.get("tag", ""))
        for variant in entry.get("variants", ()):
            if variant["case"] == chosen:
                found |= self.members(variant["type"], value)
        return found

    def argument_members(self, command: str, **tags: str) -> dict[str, Member]:
        """The arguments `command` takes, ``type="stream"`` choosing among variants; empty without the command."""
        entry = self.find_command(command)
        return self.members(entry["arg-type"], tags) if entry else {}

    def argument_values(self, command: str, argument: str) -> frozenset[str]:
        """The values an enumerated argument takes; empty without the command or the argument."""
        member = self.argument_members(command).get(argument)
        return frozenset(enum_values(self.type(member.type))) if member else frozenset()

    def values_below(self, command: str, *path: str) -> frozenset[str]:
        """The values of the enumeration that the keys `path` lead to from `command`'s arguments; empty where they lead
        nowhere. Lists on the way are stepped into."""
        entry = self.find_command(command)
        name: str | None = entry["arg-type"] if entry else None
        for key in path:
            member = self.members(name, {}).get(key) if name else None
            name = member.type if member else None
            while name and self.type(name)["meta-type"] == "array":
                name = self.type(name)["element-type"]
        return frozenset(enum_values(self.type(name))) if name else frozenset()

    def _find_named(self, name: str, meta_type: Literal["command", "event"]) -> Entry | None:
        entry = self.entries.get(name)
        return entry if entry and entry["meta-type"] == meta_type else None


def enum_values(entry: Entry) -> list[str]:
    """The values of an enumeration; `entry` of another meta-type has none."""
    if "members" in entry and entry["meta-type"] == "enum":
        return [member["name"] for member in entry["members"]]
    return list(entry.get("values", ()))


def _member(item: Entry) -> Member:
    return Member(item["name"], item["type"], "default" in item, frozenset(item.get("features", ())))
