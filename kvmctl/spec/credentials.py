"""systemd credentials: what a guest with systemd is told before anything of it runs (systemd.io/CREDENTIALS).

A value written in the spec goes into an SMBIOS string, and thereby onto QEMU's command line for everybody on the host
to read. What is secret comes from a file or the environment, and reaches the guest as a fw_cfg file.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, TypeAlias

from pydantic import BeforeValidator, Field

from kvmctl.errors import Problem
from kvmctl.plan.model import Input, StoreSecret
from kvmctl.plan.option import Option, keyvals
from kvmctl.spec.context import Context, Lowered, join
from kvmctl.spec.hostpath import HostPath
from kvmctl.spec.model import AlsoTakes, Model, reject
from kvmctl.spec.smbios import oem_string
from kvmctl.spec.units import Text, Variable, has_control_characters

_NAME: Final = r"[A-Za-z0-9_.-]+"
_FW_CFG_DIRECTORY: Final = "opt/io.systemd.credentials/"
_FW_CFG_MAX: Final = 55
"""Characters in the name of a fw_cfg file (include/standard-headers/linux/qemu_fw_cfg.h)."""


class Credential(Model):
    """A credential. Text alone stands for a table with that value."""

    value: Text | None = Field(default=None, description="The credential itself; everybody on the host can read it.")
    file: HostPath | None = Field(default=None, description="A file that holds it.")
    env: Variable | None = Field(default=None, description="An environment variable that holds it when kvmctl runs.")

    def contradictions(self) -> Iterator[Problem]:
        """It comes from one place."""
        if sum(item is not None for item in (self.value, self.file, self.env)) != 1:
            yield Problem("", "is given by exactly one of value, file and env")


def _parse(value: Any) -> Any:
    if not isinstance(value, dict):
        raise reject("must be a table of credentials by name", allowed="like { 'ssh.authorized_keys.root' = '...' }")
    for name in value:
        if not isinstance(name, str) or not re.fullmatch(_NAME, name):
            raise reject(f"{name!r} is no credential's name", allowed="letters, digits, '_', '.' and '-'")
    return {name: {"value": item} if isinstance(item, str) else item for name, item in value.items()}


Credentials: TypeAlias = Annotated[
    dict[str, Annotated[Credential, AlsoTakes(({"type": "string"},))]], BeforeValidator(_parse)
]


def lower(credentials: Mapping[str, Credential], ctx: Context) -> Lowered:
    """An SMBIOS string or a fw_cfg file each."""
    return join(_lower_one(name, credential, ctx) for name, credential in credentials.items())


def _lower_one(name: str, credential: Credential, ctx: Context) -> Lowered:
    key = f"credentials.{name}"
    if credential.value is not None:
        return _inline(name, credential.value, ctx, key=key)
    if len(_FW_CFG_DIRECTORY + name) > _FW_CFG_MAX:
        most = _FW_CFG_MAX - len(_FW_CFG_DIRECTORY)
        return Lowered(problems=(Problem(key, f"a name this long can't be given by a file; {most} characters can"),))
    if credential.file is not None:
        return Lowered(
            options=(fw_cfg(name, credential.file, why=key),), inputs=(Input(credential.file, f"{key}.file"),)
        )
    path = ctx.paths.secret(f"credential-{name}")
    stored = StoreSecret(credential.env or "", path, f"{key}.env")
    return Lowered(options=(fw_cfg(name, path, why=key),), steps=(stored,))


def _inline(name: str, value: str, ctx: Context, *, key: str) -> Lowered:
    if ctx.platform == "microvm":
        problem = Problem(key, "a microvm has no SMBIOS tables to put it in", allowed="file = ... or env = ...")
        return Lowered(problems=(problem,))
    if has_control_characters(value):
        encoded = b64encode(value.encode()).decode()
        return Lowered(options=(oem_string(f"io.systemd.credential.binary:{name}={encoded}", why=key),))
    return Lowered(options=(oem_string(f"io.systemd.credential:{name}={value}", why=key),))


def fw_cfg(name: str, path: str, *, why: str) -> Option:
    """The credential `name` from the file at `path`, which QEMU reads when it starts."""
    return keyvals("fw_cfg", None, {"name": f"{_FW_CFG_DIRECTORY}{name}", "file": path}, why=why)
