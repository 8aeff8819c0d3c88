"""Specs of any kind, drawn along the JSON Schema: every key and every choice comes up, and some of it is nonsense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from kvmctl.spec.load import schema

NONSENSE: list[Any] = [None, True, False, -1, 3, 1 << 70, 1.5, float("inf"), "", "a,b", "a\nb", "\ud800", "~", [], {}]
TEXTS = (
    "512MiB", "2MiB", "web", "disk0", "./a.qcow2", "/a/b.raw", "127.0.0.1:5000", "52:54:00:00:00:01", "2222->22",
    "uefi", "q35", "pc", "microvm", "-device", "auto", "127.0.0.1", "VARIABLE", "6ba7b810-9dad-41d1-80b4-00c04fd430c8",
    "host", "builtin:tiny", "x" * 30, "x" * 200,
)  # fmt: skip
NUMBERS = [0, 1, 2, 4, 5900, 4096, 1 << 30]
WHOLE = schema()


@st.composite
def specs(draw: st.DrawFn) -> Mapping[str, Any]:
    """A spec, right or wrong."""
    return _table(draw, WHOLE, often=7)


def _table(draw: st.DrawFn, form: Mapping[str, Any], *, often: int) -> dict[str, Any]:
    """A table with the keys it must have and one in `often` of the others."""
    needed = set(form.get("required", ()))
    wanted = [key for key in form["properties"] if key in needed or draw(st.integers(1, often)) == 1]
    return {key: _value(draw, form["properties"][key]) for key in wanted}


def _value(draw: st.DrawFn, form: Mapping[str, Any]) -> Any:
    if draw(st.integers(0, 30)) == 30:
        return draw(st.sampled_from(NONSENSE))
    match form:
        case {"$ref": name}:
            return _value(draw, WHOLE["$defs"][name.rpartition("/")[2]])
        case {"anyOf": forms} | {"oneOf": forms}:
            return _value(draw, draw(st.sampled_from(forms)))
        case {"const": word}:
            return word
        case {"enum": words}:
            return draw(st.sampled_from(words))
        case {"properties": _}:
            return _table(draw, form, often=3)
        case {"type": "object"}:
            return {"a-b": _value(draw, form["additionalProperties"])}
        case {"type": "array"}:
            return [_value(draw, form["items"]) for _ in range(draw(st.integers(0, 2)))]
        case {"type": "string"}:
            return draw(st.sampled_from(TEXTS))
        case {"type": "integer"}:
            return draw(st.sampled_from(NUMBERS))
        case {"type": "boolean"}:
            return draw(st.booleans())
    return None
