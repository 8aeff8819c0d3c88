"""Checks monitor commands, events, replies and command-line options against what a real QEMU said of itself.

QEMU's schema types commands, events and every JSON option but ``-device``; for devices and machine types there are the
recorded lists of properties, for other options those of parameters. What QEMU calls deprecated or unstable counts as
wrong. Every finding is a line of text that begins with the place. Pure: the recording is text that somebody read.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kvmctl.plan.facts import QemuFacts
from kvmctl.plan.option import Form, Option, resolve
from kvmctl.plan.replies import facts_from_replies
from kvmctl.plan.schema import Entry, Schema, enum_values

_UNWANTED: Final = ("deprecated", "unstable")

_COMMANDS: Final[Mapping[str, str]] = {"blockdev": "blockdev-add", "netdev": "netdev_add", "object": "object-add"}
"""The command whose arguments a JSON option takes."""

_QUERIES: Final[Mapping[str, str]] = {"display": "query-display-options", "audiodev": "query-audiodevs"}
"""The command that replies with what a JSON option takes; 7.2 can't be asked for audiodevs."""

_GROUPS: Final[Mapping[str, str]] = {"smp": "smp-opts", "boot": "boot-opts", "m": "memory"}
"""The name QEMU lists an option's parameters under, where it is another."""

_UNLISTED: Final = frozenset({"cpu", "display"})
"""Options of keys and values that QEMU does not list."""

_JSON_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "int": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


@dataclass(frozen=True, slots=True)
class Recording:
    """What ``scripts/capture-qemu`` recorded of one QEMU."""

    replies: Mapping[str, Any]
    device_properties: Mapping[str, Mapping[str, str]]
    machine_properties: Mapping[str, Mapping[str, str]]
    schema: Schema
    options: Mapping[str, frozenset[str]]
    """The parameters of each command-line option; empty where QEMU does not tell."""

    @classmethod
    def parse(cls, text: str) -> Recording:
        """The recording in the text of a file under tests/data/qemu."""
        record = json.loads(text)
        replies = record["replies"]
        options = replies["options"]["return"]
        return cls(
            replies=replies,
            device_properties=record["device-properties"],
            machine_properties=record["machine-properties"],
            schema=Schema.of(replies["schema"]["return"]),
            options={item["option"]: frozenset(it["name"] for it in item["parameters"]) for item in options},
        )

    def facts(self, path: str = "/usr/bin/qemu-system-x86_64") -> QemuFacts:
        """The facts of the recorded QEMU as if it were installed at `path`, without firmwares."""
        return facts_from_replies(self.replies, path=path)


def check_command(schema: Schema, name: str, arguments: Mapping[str, Any]) -> list[str]:
    """What is wrong with a monitor command."""
    entry = schema.find_command(name)
    if entry is None:
        return [f"{name}: no such command"]
    # device_add's arguments are those of the device: the schema has only the first three of them.
    known = {key: arguments[key] for key in arguments if name != "device_add" or key in {"driver", "id", "bus"}}
    return [*_marks(name, entry.get("features", ())), *_check(schema, known, entry["arg-type"], name)]


def check_event(schema: Schema, name: str, data: Mapping[str, Any]) -> list[str]:
    """What is wrong with an event."""
    entry = schema.find_event(name)
    return list(_check(schema, data, entry["arg-type"], name)) if entry else [f"{name}: no such event"]


def check_reply(schema: Schema, command: str, value: object) -> list[str]:
    """What is wrong with what a command is said to return."""
    entry = schema.find_command(command)
    return list(_check(schema, value, entry["ret-type"], command)) if entry else [f"{command}: no such command"]


def check_option(recording: Recording, option: Option) -> list[str]:
    """What is wrong with a command-line option, as far as QEMU describes options."""
    match option.form:
        case Form.JSON:
            return list(_check_json(recording, option))
        case Form.KEYVAL:
            return list(_check_keyval(recording, option))
        case Form.BARE | Form.TEXT:
            return []


def _check_json(recording: Recording, option: Option) -> Iterator[str]:
    schema, flag = recording.schema, option.flag
    body = resolve(option.body, defaultdict(int))  # which numbers descriptors get does not matter
    if not isinstance(body, Mapping):
        yield f"-{flag}: not an object"
    elif flag == "device":
        yield from _check_device(recording.device_properties, body)
    elif flag in _COMMANDS:
        yield from (f"-{flag} {problem}" for problem in check_command(schema, _COMMANDS[flag], body))
    elif entry := schema.find_command(_QUERIES.get(flag, "")):
        returned = schema.type(entry["ret-type"])
        yield from _check(schema, body, returned.get("element-type", returned["name"]), f"-{flag}")
    elif flag not in _QUERIES:
        yield f"-{flag}: takes no JSON"


def _check_device(properties: Mapping[str, Mapping[str, str]], body: Mapping[str, object]) -> Iterator[str]:
    driver = str(body.get("driver"))
    known = properties.get(driver)
    if known is None:
        yield f"-device: no device {driver!r}"
        return
    for key, value in body.items():
        where = f"-device {driver}.{key}"
        if key in {"driver", "id", "bus"}:
            if not isinstance(value, str):
                yield f"{where}: {value!r} is no string"
        elif key not in known:
            yield f"{where}: no such property"
        elif not _fits_property(value, known[key], key):
            yield f"{where}: {value!r} is no {known[key]}"


def _fits_property(value: object, type_name: str, key: str) -> bool:
    """Whether a device's property takes a value; types that QEMU only names take anything but a number for a bool."""
    if key == "addr":  # slot and function, 5 or "05.0"; listed as a plain number
        return isinstance(value, int | str) and not isinstance(value, bool)
    if type_name == "bool":
        return isinstance(value, bool)
    if type_name == "size" or type_name.startswith(("int", "uint")):
        return isinstance(value, int) and not isinstance(value, bool)
    if type_name == "OnOffAuto":
        return value in ("on", "off", "auto")
    return not isinstance(value, bool)


def _check_keyval(recording: Recording, option: Option) -> Iterator[str]:
    flag = option.flag
    group = _GROUPS.get(flag, flag)
    if flag == "machine":
        known: Iterable[str] = recording.machine_properties.get(str(option.lead), ())
        known = {*known, "accel"} if known else ()
    elif group in recording.options:
        known = recording.options[group]
    else:
        if flag not in _UNLISTED:
            yield f"-{flag}: no such option"
        return
    for key in option.body:
        if known and key.split(".")[0] not in {*known, "id"}:
            yield f"-{flag} {key}: no such parameter"


def _check(schema: Schema, value: object, type_name: str, where: str) -> Iterator[str]:
    """What is wrong with a value for the type of that masked name."""
    entry = schema.type(type_name)
    match entry["meta-type"]:
        case "object":
            yield from _check_object(schema, value, entry, where)
        case "array":
            if not isinstance(value, list):
                yield f"{where}: {value!r} is no list"
            else:
                for index, item in enumerate(value):
                    yield from _check(schema, item, entry["element-type"], f"{where}[{index}]")
        case "enum":
            yield from _check_enum(value, entry, where)
        case "alternate":
            branches = [list(_check(schema, value, item["type"], where)) for item in entry["members"]]
            if all(branches):
                yield f"{where}: {value!r} is none of the {len(branches)} forms it may have"
        case "builtin":
            if not _fits_builtin(value, entry["json-type"]):
                yield f"{where}: {value!r} is no {entry['json-type']}"


def _check_object(schema: Schema, value: object, entry: Entry, where: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{where}: {value!r} is no object"
        return
    members = schema.members(entry["name"], value)
    for name, member in members.items():
        if name not in value and not member.optional:
            yield f"{where}.{name}: missing"
    for name, item in value.items():
        place = f"{where}.{name}"
        if name not in members:
            yield f"{place}: no such key"
            continue
        yield from _marks(place, members[name].marks)
        yield from _check(schema, item, members[name].type, place)


def _check_enum(value: object, entry: Entry, where: str) -> Iterator[str]:
    if value not in enum_values(entry):
        yield f"{where}: {value!r} is none of {', '.join(enum_values(entry))}"
        return
    for member in entry.get("members", ()):
        if member["name"] == value:
            yield from _marks(f"{where} {value!r}", member.get("features", ()))


def _marks(where: str, features: Iterable[str]) -> Iterator[str]:
    yield from (f"{where}: {mark}" for mark in _UNWANTED if mark in features)


def _fits_builtin(value: object, json_type: str) -> bool:
    if isinstance(value, bool):
        return json_type in {"boolean", "value"}
    return json_type == "value" or isinstance(value, _JSON_TYPES[json_type])
