"""Pydantic's errors as problems of a spec: the key as one writes it, the value, and what is allowed there.

May import pydantic; everything that is known of a place in a spec is read from the models themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from kvmctl.errors import Problem
from kvmctl.spec.model import CONTRADICTORY, REJECTED
from kvmctl.spec.words import did_you_mean

_PLAIN: Final = {
    "missing": "is missing",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "string_type": "must be text in quotes",
    "string_unicode": "has half of a character in it (a lone surrogate)",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "dict_type": "must be a table",
    "tuple_type": "must be a list",
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
    "string_too_short": "is too short",
    "string_too_long": "is too long",
    "too_short": "is too short",
    "too_long": "is too long",
    "literal_error": "is none of its values",
    "union_tag_invalid": "is none of its values",
}


Steps: TypeAlias = tuple[int | str, ...]
"""The way to a place in a spec, through its tables and lists."""


class Fault(NamedTuple):
    """A problem, and the `steps` to what is wrong: what has to go for the rest to be read."""

    problem: Problem
    steps: Steps
    is_contradiction: bool


def faults_of(error: ValidationError, root: type[BaseModel], *, spec: Mapping[str, Any]) -> list[Fault]:
    """Everything that is wrong with `spec`."""
    return [fault for item in error.errors(include_url=False) for fault in _faults(item, root, spec)]


def _faults(item: ErrorDetails, root: type[BaseModel], spec: Mapping[str, Any]) -> Iterator[Fault]:
    place = _locate(item["loc"], root, spec)
    # What lacks a key can't be without it either.
    steps = place.steps[:-1] if item["type"] == "missing" else place.steps
    for problem in _problems(item, place):
        yield Fault(problem, steps, is_contradiction=item["type"] == CONTRADICTORY)


def _problems(item: ErrorDetails, place: _Place) -> list[Problem]:
    key = place.key
    context = item.get("ctx", {})
    match item["type"]:
        case kind if kind == CONTRADICTORY:
            return [
                problem._replace(key=joined(key, problem.key) if isinstance(place.written, Mapping) else key)
                for problem in context["problems"]
            ]
        case kind if kind == REJECTED:
            return [Problem(key, context["message"], _quoted(item["input"]), context["allowed"])]
        case "extra_forbidden":
            return [_unknown(key, item["loc"], place.holder)]
        case "union_tag_invalid" | "union_tag_not_found":
            return [_wrong_tag(key, item, place.kind)]
        case "missing":
            return [Problem(key, _PLAIN["missing"], allowed=_described(item["loc"][-1], place.holder))]
        case kind:
            return [Problem(key, _PLAIN.get(kind, item["msg"]), _quoted(item["input"]), _allowed(item))]


def joined(key: str, rest: str) -> str:
    """The dotted key of `rest` in the table at `key`."""
    return f"{key}.{rest}" if key and rest else key or rest


def _quoted(value: Any) -> str:
    match value:
        case str():
            text = repr(value)
        case bool():
            text = "true" if value else "false"
        case dict():
            return "a table"
        case list() | tuple():
            return "a list"
        case BaseModel():
            return ""
        case _:
            text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _allowed(item: ErrorDetails) -> str:
    context = item.get("ctx", {})
    match item["type"]:
        case "literal_error":
            return _words(context["expected"], item["input"])
        case "greater_than_equal":
            return f"{context['ge']} or more"
        case "less_than_equal":
            return f"{context['le']} or less"
        case "string_too_long" | "too_long":
            return f"at most {context['max_length']} characters"
        case "string_too_short" | "too_short":
            return f"at least {context['min_length']} character"
        case _:
            return ""


def _described(field: int | str, holder: Any) -> str:
    """What belongs at a field of the table `holder`, as the manual has it."""
    described = getattr(holder, "model_fields", {}).get(field)
    text = (described.description or "").removesuffix(".") if isinstance(described, FieldInfo) else ""
    return text[:1].lower() + text[1:]


def _words(expected: str, given: Any) -> str:
    words = [word for word in expected.replace(" or ", ", ").split(", ") if word]
    return f"{did_you_mean(given, [word.strip(chr(39)) for word in words])}one of {', '.join(words)}"


def _unknown(key: str, loc: Sequence[int | str], holder: Any) -> Problem:
    keys = sorted(holder.model_fields) if isinstance(holder, type) and issubclass(holder, BaseModel) else []
    hint = did_you_mean(str(loc[-1]), keys)
    return Problem(key, "unknown key", allowed=hint.rstrip() or f"the keys here are {', '.join(keys)}")


def _wrong_tag(key: str, item: ErrorDetails, union: Any) -> Problem:
    context = item.get("ctx", {})
    tag = str(context["discriminator"]).strip("'")
    expected = context.get("expected_tags", "")
    if item["type"] == "union_tag_not_found":
        tags = [repr(word) for choice in get_args(union) for word in get_args(choice.model_fields[tag].annotation)]
        return Problem(joined(key, tag), _PLAIN["missing"], allowed=f"one of {', '.join(tags)}")
    return Problem(
        joined(key, tag), _PLAIN["union_tag_invalid"], _quoted(context["tag"]), _words(expected, context["tag"])
    )


class _Place(NamedTuple):
    """A place in a spec: its dotted key, the way to it, its type and that of the table that holds its last step, and
    what the spec has there."""

    key: str
    steps: Steps
    kind: Any
    holder: Any
    written: Any


def _locate(loc: Sequence[int | str], root: type[BaseModel], spec: Any) -> _Place:
    """The place that pydantic gives as `loc`.

    Pydantic's own steps (the tag that chose a table) are no keys of the spec and are left out, and so are those into a
    table that the spec writes as one plain value (``memory = "1GiB"``).
    """
    key, here, holder = "", root, root
    steps: list[int | str] = []
    for step in loc:
        here, is_tag = _tagged(here, step)
        if is_tag:
            continue
        holder = here
        here = _member(here, step)
        if isinstance(spec, Mapping | list):
            key = f"{key}[{step}]" if isinstance(step, int) else joined(key, str(step))
            spec = _item(spec, step)
            steps.append(step)
    return _Place(key, tuple(steps), here, holder, spec)


def _item(spec: Any, step: int | str) -> Any:
    """What the spec has at `step`; an empty table where it has nothing, so that a missing key keeps its name."""
    try:
        return spec[step]
    except (KeyError, IndexError, TypeError):
        return {}


def _tagged(here: Any, step: int | str) -> tuple[Any, bool]:
    """The table that the tag `step` chooses among those of a union, and whether `step` is such a tag."""
    for choice in get_args(here) if get_origin(here) is Union or _is_pipe(here) else ():
        field = getattr(choice, "model_fields", {}).get("type")
        if isinstance(field, FieldInfo) and step in get_args(field.annotation):
            return choice, True
    return here, False


def _member(here: Any, step: int | str) -> Any:
    """The type at `step` within the type `here`, tables found through whatever wraps them."""
    if isinstance(step, int):
        items = [arg for arg in get_args(here) if arg is not Ellipsis]
        return _bare(items[0]) if items else None
    fields = getattr(here, "model_fields", {})
    return _bare(fields[step].annotation) if step in fields else None


def _bare(annotation: Any) -> Any:
    """`annotation` without Annotated and None around it."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) is Union or _is_pipe(annotation):
        members = [arg for arg in get_args(annotation) if arg is not type(None)]
        if len(members) == 1:
            return _bare(members[0])
    return annotation


def _is_pipe(annotation: Any) -> bool:
    return type(annotation).__name__ == "UnionType"
