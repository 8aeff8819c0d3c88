"""A spec as far as it can be read: the machine, or what is left of it without the keys that are wrong.

One wrong key must not hide another. Pydantic looks for contradictions only in tables whose keys are all right, and a
machine that can't be made can't be compiled. So the keys that are wrong are left out, and the rest is read again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Final

from pydantic import ValidationError

from kvmctl.errors import Problem, SpecError
from kvmctl.spec import doubt
from kvmctl.spec.doubt import Doubt
from kvmctl.spec.machine import Machine, stem_of
from kvmctl.spec.model import GATHERING, Model
from kvmctl.spec.problems import Fault, Steps, faults_of, joined
from kvmctl.spec.words import find_nearest

_DEPTH: Final = 8
"""Tables are nested less deeply; one that can't be without the key it is left without goes as well."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read from `source`."""

    source: str
    machine: Machine | None
    """The machine; with problems, what is left of it; None where nothing is."""
    problems: tuple[Problem, ...] = ()
    """Everything that is wrong with the spec by itself, on whatever host."""
    doubt: Doubt = doubt.NONE
    """The parts of `machine` that are not what the spec says, or contradict it."""

    def settled(self) -> Machine:
        """The machine. Raises SpecError with every problem at once."""
        if self.machine is None or self.problems:
            raise SpecError(self.source, self.problems)
        return self.machine


def read_mapping(spec: Mapping[str, Any], *, source: str, base: str) -> Reading:
    """What the mapping `spec` says; relative host paths count from the directory `base`."""
    named = {"name": stem_of(source), **spec}
    try:
        machine = Machine.model_validate(named, context={"base": base})
        if "name" not in spec:
            machine.model_fields_set.discard("name")  # the file's own, which nobody wrote
        return Reading(source, _sourced(machine, source))
    except ValidationError as error:
        reading = _read_around(faults_of(error, Machine, spec=named), named, source=source, base=base)
    place = {key: number for number, key in enumerate(named)}
    told = sorted(dict.fromkeys(reading.problems), key=lambda problem: place.get(re.split(r"[.[]", problem.key)[0], 0))
    return replace(reading, problems=tuple(_of_stem(problem, spec) for problem in told))


def _read_around(faults: Sequence[Fault], spec: Mapping[str, Any], *, source: str, base: str) -> Reading:
    """What is left without the keys that are wrong, and what contradicts itself there."""
    problems = [fault.problem for fault in faults]
    dropped: list[Steps] = []
    wrong = [fault.steps for fault in faults if not fault.is_contradiction]
    for _ in range(_DEPTH):
        dropped += wrong
        spec = reduce(_without, wrong, spec)
        try:
            machine = Machine.model_validate(spec, context={"base": base, GATHERING: True})
        except ValidationError as error:
            wrong = [fault.steps for fault in faults_of(error, Machine, spec=spec)]
            continue
        unread = doubt.NONE | (_in_doubt(steps) for steps in dropped)
        problems += [item for item in _contradictions(machine, spec, dropped=dropped) if not unread.touches(item)]
        return Reading(source, _sourced(machine, source), tuple(problems), unread | (item.key for item in problems))
    return Reading(source, None, tuple(problems))


def _sourced(machine: Machine, source: str) -> Machine:
    machine._source = source  # noqa: SLF001  # the one thing a machine knows that no spec says
    return machine


def _of_stem(problem: Problem, spec: Mapping[str, Any]) -> Problem:
    """A problem with a name that the spec does not give is one with the file's name."""
    if problem.key != "name" or "name" in spec:
        return problem
    return Problem("name", f"is missing, and the file's own name {problem.message}", problem.given, problem.allowed)


def _without(table: Any, steps: Steps) -> Any:
    """`table` without what is at `steps`. An element takes its whole list along: the others keep their numbers."""
    step, rest = steps[0], steps[1:]
    if isinstance(table, list):
        return [_without(item, rest) if index == step else item for index, item in enumerate(table)]
    if not isinstance(table, Mapping) or step not in table:
        return table
    if all(isinstance(inner, int) for inner in rest):
        return {key: value for key, value in table.items() if key != step}
    return {**table, step: _without(table[step], rest)}


def _in_doubt(steps: Steps) -> str:
    """The part of the spec that is not what it was meant to be. A key that is not known was meant for the nearest."""
    first = str(steps[0])
    if first not in Machine.model_fields:
        return find_nearest(first, Machine.model_fields) or first
    is_element = len(steps) > 2 and isinstance(steps[1], int)  # the list, the number, a key
    return f"{first}[{steps[1]}]" if is_element else first


def _contradictions(
    table: Model, written: Any, *, dropped: Sequence[Steps], steps: Steps = (), key: str = ""
) -> Iterator[Problem]:
    """What contradicts itself in `table`, which is at `steps`, and below it: all but what was not read whole."""
    if not steps or not any(gone[: len(steps)] == steps for gone in dropped):
        is_table = isinstance(written, Mapping)
        yield from (
            problem._replace(key=joined(key, problem.key) if is_table else key) for problem in table.contradictions()
        )
    for field in type(table).model_fields:
        for place, inner in _tables(getattr(table, field)):
            under = _item(_item(written, field), *place)
            name = joined(key, field) + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
            yield from _contradictions(inner, under, dropped=dropped, steps=(*steps, field, *place), key=name)


def _tables(value: Any) -> Iterator[tuple[Steps, Model]]:
    """The tables that a value is or holds, each with its step in it."""
    match value:
        case Model():
            yield (), value
        case tuple():
            yield from (((index,), item) for index, item in enumerate(value) if isinstance(item, Model))
        case dict():
            yield from (((name,), item) for name, item in value.items() if isinstance(item, Model))


def _item(written: Any, *steps: int | str) -> Any:
    """What was written at `steps`; an empty table where there is nothing, so that keys keep their names."""
    for step in steps:
        try:
            written = written[step]
        except (KeyError, IndexError, TypeError):
            return {}
    return written
