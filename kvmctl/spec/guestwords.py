"""The small types of ``[guest]``: names, paths and keys as a guest takes them. May import pydantic."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema

from kvmctl.errors import Problem
from kvmctl.plan.guest import is_hash
from kvmctl.plan.sshkey import ALLOWED, key_problem, looks_like_key
from kvmctl.spec.hostpath import HostPath, anchor_path, base_of
from kvmctl.spec.model import AlsoTakes, Model, reject, table_of
from kvmctl.spec.units import Line, Variable, has_control_characters, matching, string

USER: Final = r"[a-z_][a-z0-9_-]{0,31}"
_HOST: Final = (
    r"(?=.{1,64}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_USER_ALLOWED: Final = "1 to 32 lower-case letters, digits, '_' and '-', not first a digit or '-'"

UserName = Annotated[str, BeforeValidator(matching(USER, kind="a user's name", allowed=_USER_ALLOWED))]
"""A user of the guest."""
GroupName = Annotated[str, BeforeValidator(matching(USER, kind="a group's name", allowed=_USER_ALLOWED))]
"""A group of the guest."""
FullName = Annotated[
    str, BeforeValidator(matching(r"[^:\x00-\x1f\x7f]{0,128}", kind="a user's full name", allowed="a line without ':'"))
]
"""The name of a person, as /etc/passwd has it."""
Hostname = Annotated[
    str,
    BeforeValidator(
        matching(_HOST, kind="a host name", allowed="up to 64 letters, digits, '-' and '.', no part beginning with '-'")
    ),
]
"""The guest's name for itself, with or without a domain."""
Owner = Annotated[
    str,
    BeforeValidator(matching(rf"{USER}(:{USER})?", kind="an owner", allowed="'user' or 'user:group', by name")),
]
"""Who owns a file of the guest."""
Mode = Annotated[
    str, BeforeValidator(matching(r"[0-7]{3,4}", kind="a file's mode", allowed="octal digits in quotes, like '0644'"))
]
"""A file's permissions, octal."""
Package = Annotated[
    str,
    BeforeValidator(
        matching(
            r"[A-Za-z0-9@][A-Za-z0-9.+_:=~/^-]*", kind="a package's name", allowed="letters, digits and . + _ : = ~ / -"
        )
    ),
]
"""A package of the guest's distribution."""
Timezone = Annotated[
    str,
    BeforeValidator(
        matching(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*", kind="a time zone", allowed="like 'Europe/Berlin' or 'UTC'")
    ),
]
"""A time zone by its name in the tz database."""
Locale = Annotated[
    str,
    BeforeValidator(matching(r"[A-Za-z0-9_.@-]+", kind="a locale", allowed="like 'de_DE.UTF-8' or 'C.UTF-8'")),
]
"""A locale by its name."""
Instance = Annotated[
    str,
    BeforeValidator(matching(r"[A-Za-z0-9_.-]{1,64}", kind="a word", allowed="letters, digits, '_', '.' and '-'")),
]
"""A word that tells one life of a guest from another."""


def _parse_guest_path(value: Any) -> str:
    path = string(value)
    if has_control_characters(path):
        raise reject("has a line break or another control character in it", allowed="a path on one line")
    if not path.startswith("/") or path.endswith("/") or {"..", "."} & {*path.split("/")}:
        raise reject("is no path of a file in the guest", allowed="an absolute one, without '..', like '/etc/motd'")
    return re.sub("/+", "/", path)


GuestPath = Annotated[str, BeforeValidator(_parse_guest_path)]
"""The absolute path of a file in the guest."""


def _parse_key(value: Any, info: ValidationInfo) -> str:
    text = string(value).strip()
    if not looks_like_key(text):
        return anchor_path(text, base_of(info))
    if problem := key_problem(text):
        raise reject(problem, allowed=ALLOWED)
    if len(text.splitlines()) > 1:
        raise reject("is more than one key", allowed=ALLOWED)
    return text


SshKey = Annotated[str, BeforeValidator(_parse_key)]
"""A public key, or the path of a file of them."""


def _parse_command(value: Any) -> tuple[str, ...]:
    """Text is for the shell; a list is a program and its arguments."""
    if isinstance(value, str) and value.strip() and "\0" not in value:
        return ("sh", "-c", value)
    words = list(value) if isinstance(value, list | tuple) else []
    if not words or not all(isinstance(word, str) and "\0" not in word for word in words) or not words[0]:
        raise reject("is no command", allowed="text for the shell, or a list of a program and its arguments")
    return tuple(words)


Command = Annotated[
    tuple[str, ...],
    BeforeValidator(_parse_command),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
"""A command for the guest."""


def _parse_interface(value: Any) -> str:
    try:
        if "/" in string(value):
            return str(ip_interface(value))
    except ValueError:
        pass
    raise reject("is no address of a network card", allowed="with the length of its prefix, like '10.0.0.2/24'")


CardAddress = Annotated[str, BeforeValidator(_parse_interface)]
"""An IP address with the length of its network's prefix."""


def _parse_ip(value: Any) -> str:
    try:
        return str(ip_address(string(value)))
    except ValueError:
        raise reject("is no IP address", allowed="like '10.0.0.1' or 'fd00::1'") from None


IpAddress = Annotated[str, BeforeValidator(_parse_ip)]
"""An IP address."""


class Secret(Model):
    """What must not be read by everybody who can read the spec."""

    file: HostPath | None = Field(default=None, description="A file that holds it; a line break after it is not part.")
    env: Variable | None = Field(default=None, description="An environment variable that holds it when kvmctl runs.")

    def contradictions(self) -> Iterator[Problem]:
        """It comes from one place."""
        if (self.file is None) == (self.env is None):
            yield Problem("", "is given by exactly one of file and env")


def _parse_secret(value: Any) -> Any:
    # Text is a password somebody wrote in the spec: an empty table is told what to do, and does not quote it.
    return {} if isinstance(value, str) else value


Password = Annotated[Secret, BeforeValidator(_parse_secret)]
"""A password, by where it is kept."""


class Hash(Model):
    """A password's hash, as ``openssl passwd -6`` prints it. Text alone stands for a table with that value."""

    value: Line | None = Field(default=None, exclude=True, description="The hash itself.")
    file: HostPath | None = Field(default=None, description="A file that holds it; a line break after it is not part.")
    env: Variable | None = Field(default=None, description="An environment variable that holds it when kvmctl runs.")

    def contradictions(self) -> Iterator[Problem]:
        """It comes from one place and looks like one."""
        if sum(item is not None for item in (self.value, self.file, self.env)) != 1:
            yield Problem("", "is given by exactly one of value, file and env")
        elif self.value is not None and not is_hash(self.value):
            yield Problem("", "is no hash of a password", allowed="what 'openssl passwd -6' prints, in single quotes")


PasswordHash = Annotated[Hash | None, table_of("value", str, kind="a hash"), AlsoTakes(({"type": "string"},))]
"""The hash of a password, or where it is kept."""
