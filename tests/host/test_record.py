"""Surveys survive JSON, and what is no survey is refused."""

from __future__ import annotations

import json

import pytest
from hosts import NAMES, recorded

from kvmctl.host.record import Survey


@pytest.mark.parametrize("name", NAMES)
def test_a_survey_survives_json(name: str) -> None:
    survey = recorded(name)
    assert Survey.loads(survey.dumps()) == survey


def test_what_was_read_has_its_types() -> None:
    survey = recorded("kvm-pvm")
    assert survey.inventory.guests.cpuid[0].function == 0
    assert isinstance(survey.inventory.cpu.flags, tuple)
    assert survey.memory.limit is None
    assert survey.kvm_node is not None
    assert survey.kvm_node.mode == "0600"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "not a survey of format 1"),
        ({"shoe_size": 43}, "has no shoe_size"),
        ({"memory": {"total": 1}}, "available"),
        ({"system": 7}, "not a survey"),
    ],
)
def test_what_is_no_survey_is_refused(change: dict[str, object], message: str) -> None:
    record = json.loads(recorded("intel-nested").dumps()) | change
    with pytest.raises(ValueError, match=message):
        Survey.loads(json.dumps(record))


@pytest.mark.parametrize("text", ["[]", "null", "{}", "{"])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Survey.loads(text)
