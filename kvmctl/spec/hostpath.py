"""Paths on the host: absolute once read, relative ones counted from the spec's own directory.

``..`` is left as it is, because the kernel and nobody else knows where it leads behind a symbolic link. May import
pydantic.
"""

from __future__ import annotations

from collections.abc import Callable
from posixpath import join
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo

from kvmctl.spec.model import reject
from kvmctl.spec.units import has_control_characters, string


def anchor_path(value: Any, base: str | None) -> str:
    """`value` as an absolute host path; a relative one counts from the directory `base`."""
    path = string(value)
    if not path:
        raise reject("is an empty path", allowed="a path, or leave it out")
    if has_control_characters(path):
        raise reject("has a line break or another control character in it", allowed="a path on one line")
    if path.startswith("~"):
        raise reject("'~' is not expanded in a spec", allowed="write the path out, or begin with './' for such a file")
    if path.startswith("/"):
        return path
    if base is None:
        raise reject("is a relative path, and this machine was read from no file it could count from")
    return join(base, path.removeprefix("./"))


def base_of(info: ValidationInfo) -> str | None:
    """The directory that relative paths count from, from the validation's context."""
    context = info.context
    return context.get("base") if isinstance(context, dict) else None


def _parse_path(value: Any, info: ValidationInfo) -> str:
    return anchor_path(value, base_of(info))


HostPath = Annotated[str, BeforeValidator(_parse_path)]
"""A path on the host, absolute once read; relative ones count from the spec's directory."""


def path_or(*words: str) -> Callable[[Any, ValidationInfo], str]:
    """A validator that takes one of `words` as it is, and a path on the host."""

    def parse(value: Any, info: ValidationInfo) -> str:
        return value if value in words else anchor_path(value, base_of(info))

    return parse
