"""The base of every model of a spec, and how a model says what is wrong with it.

Models are frozen and refuse keys they do not know. What one field can't see (two keys that contradict each other) is
told by `Model.contradictions`, all of it at once and each with its own key. May import pydantic and the error tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationInfo,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from kvmctl.errors import Problem

REJECTED: Final = "kvmctl_rejected"
CONTRADICTORY: Final = "kvmctl_contradictory"
GATHERING: Final = "is_gathering"
"""In the context of a validation: contradictions are left to who gathers them, and are no errors."""

Bool = StrictBool
"""true or false, never "yes" or 1."""
Int = StrictInt
"""A whole number, never its text."""
Str = StrictStr
"""Text."""


def reject(message: str, *, allowed: str = "") -> PydanticCustomError:
    """The error a validator raises: what is wrong with the value, and what is `allowed` instead."""
    return PydanticCustomError(REJECTED, "{message}", {"message": message, "allowed": allowed})


class Model(BaseModel):
    """The base of every table of a spec: frozen, and with no key but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    def contradictions(self) -> Iterable[Problem]:
        """What is wrong among the keys of this table; each problem's key is relative to the table."""
        return ()

    @model_validator(mode="after")
    def _has_no_contradictions(self, info: ValidationInfo) -> Self:
        is_gathering = isinstance(info.context, dict) and info.context.get(GATHERING)
        problems = () if is_gathering else tuple(self.contradictions())
        if problems:
            raise PydanticCustomError(CONTRADICTORY, "contradictory", {"problems": problems})
        return self

    def gives(self, key: str) -> bool:
        """Whether `key` was written in the spec, rather than left to its default."""
        return key in self.model_fields_set


def why(model: Model, field: str, key: str, *, default: str) -> str:
    """Why an option is there: the spec's `key` when `model.field` was written, else the reason of the default."""
    return key if model.gives(field) else f"default: {default}"


@dataclass(frozen=True, slots=True)
class AlsoTakes:
    """Adds to the JSON Schema of a table the `forms` of plain values that stand for one."""

    forms: tuple[JsonSchemaValue, ...]

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The table or one of the plain values."""
        return {"anyOf": [handler(schema), *self.forms]}


def _switched(value: Any) -> Any:
    if value is True:
        return {}
    if value is False or value is None:
        return None
    return _table(value, or_else="true, false")


def table_of(field: str, *plain: type, kind: str) -> BeforeValidator:
    """Lets a value of a `plain` type, in words a `kind`, stand for a table that has only `field`."""

    def widen(value: Any) -> Any:
        is_plain = isinstance(value, plain) and not isinstance(value, bool)
        return {field: value} if is_plain else _table(value, or_else=kind)

    return BeforeValidator(widen)


def _table(value: Any, *, or_else: str) -> Any:
    if not isinstance(value, Mapping | Model):
        raise reject(f"must be {or_else} or a table")
    return value


_M = TypeVar("_M")

Switch = Annotated[_M | None, BeforeValidator(_switched), AlsoTakes(({"type": "boolean"},))]
"""A table that ``true`` gives with its defaults and ``false`` leaves out."""
