"""The processors: how many, of which model, and in which topology."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from kvmctl.errors import Problem
from kvmctl.plan.facts import QemuFacts
from kvmctl.plan.option import Option, Parameter, gathered
from kvmctl.spec.context import Context, Lowered
from kvmctl.spec.model import Int, Model, Str, reject, why
from kvmctl.spec.words import did_you_mean

_FEATURE: Final = r"[a-z0-9][a-z0-9_.-]*"
_FEATURE_VALUE: Final = r"[A-Za-z0-9_.+-]+"
_HOST_MODELS: Final = frozenset({"host", "max"})


def _parse_features(value: Any) -> dict[str, bool | int | str]:
    if not isinstance(value, dict):
        raise reject("must be a table of CPU features", allowed="like { arch-capabilities = false }")
    for name, setting in value.items():
        # QEMU splits -cpu at every comma and knows no way to write one, so none may get there.
        if not re.fullmatch(_FEATURE, str(name)):
            raise reject(f"{name!r} is not a CPU feature's name", allowed="lower-case letters, digits, '-', '_', '.'")
        is_word = isinstance(setting, str) and re.fullmatch(_FEATURE_VALUE, setting)
        if not (is_word or isinstance(setting, bool | int)):
            message = f"{setting!r} is no setting for the CPU feature {name!r}"
            raise reject(message, allowed="true, false, a number or a word")
    return value


class Cpu(Model):
    """The model and topology of the processors; how many there are is the machine's key ``cpus``."""

    model: Str | None = Field(
        default=None,
        min_length=1,
        description="QEMU's name of a CPU model. Unless given: 'host' under KVM, 'max' under TCG.",
    )
    features: Annotated[dict[str, bool | int | str], BeforeValidator(_parse_features)] = Field(
        default_factory=dict, description="CPU features to switch on or off, or to set: { arch-capabilities = false }."
    )
    max: Int | None = Field(
        default=None, ge=1, description="CPUs there is room for; those beyond cpus can be plugged in."
    )
    sockets: Int | None = Field(default=None, ge=1, description="CPU sockets; 1 unless given.")
    dies: Int | None = Field(default=None, ge=1, description="Dies a socket; 1 unless given.")
    cores: Int | None = Field(default=None, ge=1, description="Cores a die; what is left of the CPUs unless given.")
    threads: Int | None = Field(default=None, ge=1, description="Threads a core; 1 unless given.")

    def topology(self, cpus: int) -> dict[str, int]:
        """Sockets, dies, cores and threads for `cpus`, those not given filled in."""
        total = self.max or cpus
        dies, threads = self.dies or 1, self.threads or 1
        if self.sockets is None and self.cores is not None:
            return {
                "sockets": _share(total, dies * self.cores * threads),
                "dies": dies,
                "cores": self.cores,
                "threads": threads,
            }
        sockets = self.sockets or 1
        cores = self.cores or _share(total, sockets * dies * threads)
        return {"sockets": sockets, "dies": dies, "cores": cores, "threads": threads}

    def topology_problems(self, cpus: int) -> Iterator[Problem]:
        """What does not go together with the number of CPUs."""
        if self.max is not None and self.max < cpus:
            yield Problem("cpu.max", f"is less than cpus ({cpus})", str(self.max), f"{cpus} or more")
            return
        total = self.max or cpus
        members = self.topology(cpus)
        if prod(members.values()) != total:
            text = " * ".join(f"{count} {member}" for member, count in members.items())
            whole = "cpu.max" if self.max else "cpus"
            yield Problem(
                "cpu",
                f"the topology {text} is {prod(members.values())} CPUs and {whole} is {total}",
                allowed=f"numbers whose product is {total}",
            )


def _share(total: int, by: int) -> int:
    return max(1, total // by)


def lower(cpu: Cpu, ctx: Context, *, cpus_why: str) -> Lowered:
    """``-cpu`` and ``-smp``."""
    return Lowered(options=(_model(cpu, ctx), _smp(cpu, ctx, cpus_why=cpus_why)), problems=tuple(_problems(cpu, ctx)))


def _model(cpu: Cpu, ctx: Context) -> Option:
    default = "host" if ctx.accel == "kvm" else "max"
    reason = "the host's own CPU, as KVM can only run that" if ctx.accel == "kvm" else "everything TCG can do"
    refused = ctx.host.kvm.refused_cpu_features if ctx.accel == "kvm" else ()
    left_out = Parameter(value=False, why="default: this host's KVM announces it, and refuses what belongs to it")
    features = dict.fromkeys(refused, left_out)
    features |= {name: Parameter(value, f"cpu.features.{name}") for name, value in cpu.features.items()}
    return gathered("cpu", features, lead=cpu.model or default, why=why(cpu, "model", "cpu.model", default=reason))


def _smp(cpu: Cpu, ctx: Context, *, cpus_why: str) -> Option:
    counts = {"cpus": Parameter(ctx.cpus, cpus_why)}
    room = why(cpu, "max", "cpu.max", default="room for no more than there are at boot")
    counts["maxcpus"] = Parameter(cpu.max or ctx.cpus, room)
    members = cpu.topology(ctx.cpus)
    # Naming a member that a machine does not support is deprecated since QEMU 9.0, even when it is 1.
    if members["dies"] == 1:
        del members["dies"]
    for member, count in members.items():
        is_rest = member == "cores" or (member == "sockets" and cpu.cores is not None)
        default = "what makes up the CPUs" if is_rest else "one"
        counts[member] = Parameter(count, why(cpu, member, f"cpu.{member}", default=default))
    return gathered("smp", counts)


def _problems(cpu: Cpu, ctx: Context) -> Iterator[Problem]:
    if cpu.model == "host" and ctx.accel == "tcg":
        yield Problem(
            "cpu.model", "the host's CPU needs KVM, and this machine runs under TCG", "'host'", "leave it out"
        )
    elif cpu.model is not None and cpu.model not in ctx.qemu.cpu_models | _HOST_MODELS:
        yield Problem(
            "cpu.model",
            f"QEMU {ctx.qemu.version_text} has no such CPU",
            f"'{cpu.model}'",
            _nearest(cpu.model, ctx.qemu),
        )
    if (cpu.dies or 1) > 1 and ctx.platform == "microvm":
        yield Problem("cpu.dies", "a microvm has no dies", str(cpu.dies), "1")
    limit = next((item.cpu_max for item in ctx.qemu.machines if item.name == ctx.machine_type), 0)
    if limit and (cpu.max or ctx.cpus) > limit:
        where = "cpu.max" if cpu.max else "cpus"
        yield Problem(where, f"{ctx.machine_type} has at most {limit} CPUs", str(cpu.max or ctx.cpus), f"1 to {limit}")


def _nearest(model: str, qemu: QemuFacts) -> str:
    return f"{did_you_mean(model, sorted(qemu.cpu_models))}see them: {qemu.path} -cpu help"
