"""What holds of every spec, not of examples: texts stay data, ids stay apart, plans stay what they are."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import factory
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from schema_specs import specs

from kvmctl.compile import compile_plan
from kvmctl.errors import KvmUnavailable, Problem, SpecError
from kvmctl.plan.facts import KvmFacts
from kvmctl.plan.model import Plan
from kvmctl.plan.option import Option, from_json, jsonopt, keyvals, render, to_json
from kvmctl.spec.load import from_mapping, parse
from kvmctl.testing.qapi import check_option

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
LINES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=30)
KEYS = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
SCALARS = st.one_of(WORDS, st.integers(), st.booleans(), st.none())
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


def split(text: str) -> list[str]:
    """QEMU's own way to read a key=value list: commas part, two commas are one (util/qemu-option.c, get_opt_value)."""
    parts = re.split(r"(?<!,)((?:,,)*),(?!,)", text)
    return [(part + comma).replace(",,", ",") for part, comma in zip(parts[::2], [*parts[1::2], ""], strict=True)]


@given(st.dictionaries(KEYS, WORDS, min_size=1, max_size=4))
def test_no_text_becomes_another_option(body: dict[str, str]) -> None:
    assume(not any(value.startswith(",") or value.endswith(",") for value in body.values()))
    flag, text = render([keyvals("x", None, body, why="")], {})
    assert flag == "-x"
    assert split(text) == [f"{key}={value}" for key, value in body.items()]


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_json_says_what_it_was_told(body: dict[str, Any]) -> None:
    _, text = render([jsonopt("device", body, why="")], {})
    assert json.loads(text) == body
    assert "\n" not in text


@given(st.dictionaries(KEYS, VALUES, max_size=4), WORDS)
def test_an_option_survives_its_file(body: dict[str, Any], why: str) -> None:
    for option in (jsonopt("device", body, why=why), keyvals("machine", why, body, why=why)):
        assert from_json(json.loads(json.dumps(to_json(option)))) == option


# --- whole machines

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,10}", fullmatch=True)
IDS = st.none() | NAMES
DISKS = st.fixed_dictionaries(
    {"path": LINES.map(lambda text: f"/images/{text}.raw")},
    optional={
        "id": NAMES,
        "bus": st.sampled_from(["virtio", "scsi", "usb", "nvme"]),
        "cache": st.sampled_from(["writeback", "none", "unsafe"]),
        "read_only": st.booleans(),
    },
)
NETWORKS = st.one_of(
    st.fixed_dictionaries({"type": st.just("user")}, optional={"id": NAMES, "restrict": st.booleans()}),
    st.fixed_dictionaries({"type": st.just("tap")}, optional={"id": NAMES, "queues": st.integers(1, 4)}),
    st.fixed_dictionaries({"type": st.just("none")}),
)
SHARES = st.fixed_dictionaries(
    {"path": LINES.map(lambda text: f"/shares/{text}"), "driver": st.sampled_from(["auto", "9p"])},
    optional={"mount": LINES.map(lambda text: f"/mnt/{text}"), "read_only": st.booleans()},
)
CHANNELS = st.fixed_dictionaries({"name": LINES}, optional={"id": NAMES})
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "machine": st.sampled_from(["q35", "pc"]),
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True),
        "description": LINES,
        "cpus": st.integers(1, 16),
        "memory": st.integers(1, 64).map(lambda count: f"{count}MiB"),
        "disks": st.lists(DISKS, max_size=4, unique_by=lambda disk: disk["path"]),
        "networks": st.lists(NETWORKS, max_size=4),
        "channels": st.lists(CHANNELS, max_size=3),
        "shares": st.lists(SHARES, max_size=3, unique_by=lambda share: share.get("mount", id(share))),
        "consoles": st.lists(st.fixed_dictionaries({}, optional={"log": st.booleans()}), max_size=2),
        "serials": st.lists(st.just({}), max_size=3),
        "balloon": st.booleans(),
        "vnc": st.booleans(),
        "agent": st.sampled_from([True, False, {"transport": "serial"}]),
        "smbios": st.fixed_dictionaries({"oem_strings": st.lists(LINES, max_size=2)}),
    },
)
MAKES = ("device", "object", "chardev", "netdev", "blockdev")


def compiled(spec: Mapping[str, Any]) -> Plan:
    """The plan of a spec whose ids are no two devices'; others are not what these tests are about."""
    try:
        return factory.plan_of(spec)
    except SpecError as error:
        assume(not any(" id " in problem.message or "the id of" in problem.message for problem in error.problems))
        raise


@example({"guest": {"user_data": "/user-data"}}, min(factory.QEMUS), factory.KVM)
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(specs(), st.sampled_from(sorted(factory.QEMUS)), st.sampled_from([factory.KVM, factory.NO_KVM]))
def test_any_spec_is_a_plan_that_qemu_knows_or_told_what_is_wrong(
    spec: dict[str, Any], version: str, kvm: KvmFacts
) -> None:
    host = factory.host(kvm=kvm, hugepages={2 << 20: 1 << 20})
    problems: tuple[Problem, ...] = ()
    try:
        read = from_mapping(spec, source="web.toml", base="/specs")
        made = compile_plan(read, host=host, qemu=factory.QEMUS[version], paths=factory.PATHS)
    except SpecError as error:
        problems = error.problems
    except KvmUnavailable:
        return
    assert not [problem for problem in problems if "Input should" in problem.message or not problem.key]
    if problems:
        return
    assert [found for option in made.options for found in check_option(factory.RECORDINGS[version], option)] == []
    kept = json.loads(json.dumps(made.spec))
    assert from_mapping(kept, source="web.toml", base="/elsewhere") == read
    assert Plan.loads(made.dumps()) == made


@settings(max_examples=300)
@given(st.text() | st.sampled_from(["a.b=1", "[[disks]]", "[", "\0"]), st.sampled_from(["toml", "json"]))
def test_whatever_a_file_holds_it_is_a_spec_or_told_what_is_wrong(text: str, form: Any) -> None:
    with suppress(SpecError):
        parse(text, source="web.toml", base="/specs", format=form)


@settings(deadline=None, max_examples=150)
@given(SPECS)
def test_everything_has_its_own_name_and_address(spec: dict[str, Any]) -> None:
    made = compiled(spec)
    for flag in MAKES:
        names = Counter(option.body.get("id", option.body.get("node-name")) for option in factory.options(made, flag))
        assert not [name for name, count in names.items() if name is not None and count > 1]
    addresses = Counter((option.body["bus"], option.body["addr"]) for option in made.options if "addr" in option.body)
    assert not [address for address, count in addresses.items() if count > 1]


@settings(deadline=None, max_examples=100)
@given(SPECS)
def test_a_plan_is_the_same_every_time_and_survives_its_file(spec: dict[str, Any]) -> None:
    made = compiled(spec)
    assert compiled(spec) == made
    assert Plan.loads(made.dumps()) == made


@settings(deadline=None, max_examples=100)
@given(SPECS, LINES)
def test_what_a_spec_says_changes_no_other_option(spec: dict[str, Any], text: str) -> None:
    def shape(made: Plan) -> list[tuple[str, tuple[str, ...]]]:
        return [(option.flag, tuple(option.body)) for option in made.options]

    said = {"description": text, "smbios": {"system": {"serial": text}}}
    plain = {"description": "plain", "smbios": {"system": {"serial": "plain"}}}
    rest = {key: value for key, value in spec.items() if key != "smbios"}
    assert shape(compiled({**rest, **said})) == shape(compiled({**rest, **plain}))


@settings(deadline=None, max_examples=100)
@given(SPECS)
def test_every_plugged_device_sits_on_a_port_of_its_own(spec: dict[str, Any]) -> None:
    made = compiled({**spec, "machine": "q35"})
    ports = [option.body for option in made.options if option.body.get("driver") == "pcie-root-port"]
    plugged: list[Option] = [option for option in made.options if str(option.body.get("bus", "")).endswith("-port")]
    assert len({str(option.body["bus"]) for option in plugged}) == len(plugged) == len(ports) - 4
    assert all(option.body["addr"] == "0x0" for option in plugged)
