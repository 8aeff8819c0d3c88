"""Facts from the recorded replies of three real QEMUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvmctl.plan.facts import QemuFacts
from kvmctl.plan.features import Feature, is_supported
from kvmctl.plan.replies import facts_from_replies
from kvmctl.plan.schema import Schema

RECORDINGS = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parents[1] / "data/qemu").iterdir()}
EVERYWHERE = {Feature.SANDBOX, Feature.VNC, Feature.TLS}


@pytest.fixture(params=RECORDINGS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def replies(version: str) -> dict[str, Any]:
    return dict(RECORDINGS[version]["replies"])


@pytest.fixture
def facts(replies: dict[str, Any]) -> QemuFacts:
    return facts_from_replies(replies, path="/usr/bin/qemu-system-x86_64")


def test_features_are_those_of_the_version(facts: QemuFacts, version: str) -> None:
    newer = {Feature.STREAM_RECONNECT_MS, Feature.MMIO_IOTHREAD, Feature.MIGRATE_FILE, Feature.READONLY_MEMORY}
    expected: dict[str, set[Feature]] = {
        "7.2": set(),
        "10.0": {*newer, Feature.STREAM_RECONNECT},
        "11.1": {*newer, Feature.MONITOR_OBJECT, Feature.EXIT_WITH_PARENT},
    }
    assert facts.features == EVERYWHERE | expected[version]


def test_the_aliases_stand_for_the_newest_machine_types(facts: QemuFacts, version: str) -> None:
    aliases = {machine.alias: machine.name for machine in facts.machines if machine.alias}
    assert aliases == {"q35": f"pc-q35-{version}", "pc": f"pc-i440fx-{version}"}


def test_version_and_package_are_the_binary_s_own(facts: QemuFacts, version: str) -> None:
    assert facts.version_text.startswith(f"{version}.")
    assert facts.package.startswith("Debian ")


def test_accelerators_are_named_as_the_option_takes_them(facts: QemuFacts) -> None:
    assert {"kvm", "tcg"} <= facts.accelerators
    assert "accel" not in facts.accelerators


def test_a_device_whose_inner_device_has_no_module_is_left_out(facts: QemuFacts, version: str) -> None:
    # bookworm's 7.2 lists virtio-vga-gl, and aborts when it is to make one: its inner device's module is missing.
    assert ("virtio-vga-gl" in facts.devices) == (version != "7.2")
    assert "virtio-vga" in facts.devices


def test_cpu_models_are_no_devices(facts: QemuFacts) -> None:
    assert {"max", "qemu64", "EPYC"} <= facts.cpu_models
    assert not [name for name in facts.devices if name.endswith("-cpu")]


def test_facts_survive_the_cache(facts: QemuFacts) -> None:
    assert QemuFacts.loads(facts.dumps()) == facts


def test_a_build_without_a_part_has_no_feature_of_it(replies: dict[str, Any]) -> None:
    def without(name: str, key: str, value: str) -> dict[str, Any]:
        return replies | {name: {"return": [item for item in replies[name]["return"] if item[key] != value]}}

    def features(replies: dict[str, Any]) -> frozenset[Feature]:
        return facts_from_replies(replies, path="").features

    assert Feature.SANDBOX not in features(without("options", "option", "sandbox"))
    assert Feature.VNC not in features(without("schema", "name", "query-vnc"))
    assert Feature.TLS not in features(without("objects", "name", "tls-creds-x509"))


def test_a_refused_question_is_named(replies: dict[str, Any]) -> None:
    refused = {"error": {"class": "CommandNotFound", "desc": "The command query-cpu-definitions has not been found"}}
    with pytest.raises(ValueError, match="QEMU did not tell its cpus: The command query-cpu-definitions has not"):
        facts_from_replies(replies | {"cpus": refused}, path="")


def test_a_missing_reply_is_named(replies: dict[str, Any]) -> None:
    del replies["machines"]
    with pytest.raises(ValueError, match="QEMU did not tell its machines: no reply"):
        facts_from_replies(replies, path="")


def test_the_schema_is_walked_from_a_command(replies: dict[str, Any]) -> None:
    schema = Schema.of(replies["schema"]["return"])
    assert {"id", "type", "addr", "server"} <= set(schema.argument_members("netdev_add", type="stream"))
    assert "addr" not in schema.argument_members("netdev_add", type="user")
    assert {"memory-backend-memfd", "secret", "iothread"} <= schema.argument_values("object-add", "qom-type")
    assert schema.argument_members("no-such-command") == {}
    assert schema.find_command("SHUTDOWN") is None
    assert schema.find_event("SHUTDOWN") is not None


@pytest.mark.parametrize(("number", "expected"), [((7, 1, 99), False), ((7, 2, 0), True), ((11, 0, 0), True)])
def test_the_floor_is_7_2(number: tuple[int, int, int], *, expected: bool) -> None:
    assert is_supported(number) is expected


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"features": ["x"]}'])
def test_facts_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        QemuFacts.loads(text)


def test_every_feature_has_a_rule_and_some_qemu_has_it() -> None:
    found = [facts_from_replies(recording["replies"], path="").features for recording in RECORDINGS.values()]
    assert frozenset().union(*found) == set(Feature)
