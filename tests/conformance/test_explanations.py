"""Why every option of every example is there: each key of a spec is found again, and what has none says its reason."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any, Final

import pytest
from golden import SPECS, plan_for

from kvmctl.plan.model import Plan
from kvmctl.plan.option import Option

NO_OPTION: Final = {
    "description": "it is for people",
    "qemu": "it is the program itself",
    "cpu.dies": "one die is what there is anyway, and to say so is deprecated",
}
NOTHING: Final = (False, 0, [], "none")
ABSENT: Final = {
    "agent",
    "balloon",
    "inputs",
    "panic",
    "pci.spare_root_ports",
    "rng",
    "sandbox",
    "serials",
    "video.model",
}
"""What there is unless it is switched off with one of these, and then its options are gone with it."""
DEFAULT: Final = "default: "
GATHERING: Final = {"machine", "cpu", "smp", "m", "rtc", "action"}
"""The flags whose parameters come from keys that have nothing to do with each other."""


def written_keys(value: Any, key: str = "") -> Iterator[str]:
    """The keys of a spec that hold something, each as one writes it."""
    match value:
        case dict() if value:
            for name, item in value.items():
                yield from written_keys(item, f"{key}.{name}" if key else name)
        case list() if value and isinstance(value[0], dict):
            for index, item in enumerate(value):
                yield from written_keys(item, f"{key}[{index}]")
        case _ if value not in NOTHING or key not in ABSENT:
            yield key


def reasons_of(option: Option) -> Iterator[str]:
    """Why an option and each of its parameters is there."""
    yield option.why
    yield from option.reasons.values()


def keys_named(plan: Plan) -> set[str]:
    """Every key that a plan's options and steps are explained by."""
    reasons = [reason for option in plan.options for reason in reasons_of(option)]
    reasons += [step.why for step in plan.before_run]
    return {reason.partition(": ")[0] for reason in reasons if not reason.startswith(DEFAULT)}


def is_within(key: str, other: str) -> bool:
    """Whether `key` is `other` or in its table."""
    return key == other or key.startswith((f"{other}.", f"{other}["))


@pytest.mark.parametrize("name", SPECS)
def test_every_key_that_is_written_explains_an_option(name: str) -> None:
    named = keys_named(plan_for(name, "10.0"))
    written = [key for key in written_keys(tomllib.loads(SPECS[name].read_text())) if key not in NO_OPTION]
    assert [key for key in written if not any(is_within(key, other) or is_within(other, key) for other in named)] == []


@pytest.mark.parametrize("name", SPECS)
def test_what_is_not_explained_by_a_written_key_is_a_default_and_says_why(name: str) -> None:
    written = list(written_keys(tomllib.loads(SPECS[name].read_text())))
    for option in plan_for(name, "10.0").options:
        assert option.flag not in GATHERING or option.reasons.keys() >= option.body.keys(), option
        for reason in reasons_of(option):
            key = reason.partition(": ")[0]
            is_key = any(is_within(key, other) or is_within(other, key) for other in written)
            assert is_key or reason.startswith(DEFAULT), f"{option}: {reason!r}"
