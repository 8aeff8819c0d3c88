"""Every error kvmctl raises, sorted by what the caller can do about it.

::

    KvmctlError                      exit code
    ├── SpecError                     3   the machine spec is wrong: every problem at once
    ├── NotFound                      4   no machine, file or medium of that name
    │   └── ImageMissing                  … nor image in the store
    ├── NotRunning                    5   the machine is not running
    ├── AlreadyRunning                6   it is, and somebody else started it
    ├── Busy                          7   a resource with one user at a time is taken
    │   ├── MonitorBusy                   … the QMP socket
    │   ├── ConsoleBusy                   … the console
    │   ├── ImageBusy                     … a disk image
    │   └── PortBusy                      … a TCP port
    ├── HostError                     8   this host can't: no KVM, no QEMU, too old, missing helper
    │   ├── QemuNotFound
    │   ├── QemuTooOld
    │   ├── KvmUnavailable
    │   ├── TemplateMisfit                … a template was made by another QEMU, on another CPU, of something else
    │   └── AptError                      … the distribution's packages can't be had
    ├── LaunchFailed                  9   QEMU was started and did not come up
    ├── DeadlineExceeded             10   no answer within the time given
    ├── QmpError                     11   QEMU refused a command
    │   └── MonitorLost                   … or hung up in the middle
    ├── AgentError                   12   the guest agent is absent, refused, or talks nonsense
    ├── ImageError                   13   a disk image can't be made or read
    ├── StateError                   14   files of kvmctl's own can't be read or written
    │   └── TemplateDamaged               … files of a template are missing, or are not what they were
    ├── Unreachable                  15   there is no way into the guest, or it lets nobody in
    │   └── HostKeyChanged                … what answers is not the guest that was there before
    ├── WaitFailed                   16   what was waited for has failed, and won't come by waiting
    ├── CopyFailed                   17   a file can't be copied into the guest or out of it
    ├── DownloadError                18   an image can't be downloaded
    │   └── DigestMismatch                … or is not the one that its publisher has
    └── CommandFailed                19   a command in the guest did not end as it had to

A summary says what happened with the values quoted, the detail is the evidence (QEMU's own words), the hint is what
to do next. Only ``kvmctl.cli`` prints these or turns them into an exit status. Imports nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kvmctl.verdict import Verdict


class KvmctlError(Exception):
    """The root of the tree; catch this to catch everything kvmctl raises on purpose."""

    exit_code = 1

    def __init__(self, summary: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(summary)
        self.summary = summary
        self.detail = detail
        self.hint = hint
        self.verdict: Verdict | None = None
        """What became of the machine that this is about, where that was found out."""

    def __str__(self) -> str:
        parts = [self.summary]
        if self.detail:
            parts.append(self.detail.rstrip("\n"))
        parts += self.verdict_lines()
        if self.hint:
            parts.append(f"hint: {self.hint}")
        return "\n".join(parts)

    def verdict_lines(self) -> list[str]:
        """The verdict, where there is one, without the evidence that the detail has already."""
        if self.verdict is None:
            return []
        known = self.detail.splitlines()
        evidence = [f"  | {line}" for line in self.verdict.evidence if line not in known]
        return [f"verdict: {self.verdict.kind}: {self.verdict.summary}", *evidence]


class Problem(NamedTuple):
    """One thing wrong with a spec: where, what was given, and what would be right."""

    key: str
    """Dotted path in the spec, ``disks[0].cache``; empty for the file as a whole."""
    message: str
    given: str = ""
    """The offending value as it was written, quoted; empty when a value is missing."""
    allowed: str = ""
    """What is allowed there, or the nearest thing to what was meant."""

    def __str__(self) -> str:
        text = f"{self.key}: {self.message}" if self.key else self.message
        if self.given:
            text += f" (given {self.given})"
        if self.allowed:
            text += f"; {self.allowed}"
        return text


class SpecError(KvmctlError):
    """A machine spec is wrong. `problems` holds all of them, `source` the file they are in."""

    exit_code = 3

    def __init__(self, source: str, problems: list[Problem] | tuple[Problem, ...], *, hint: str = "") -> None:
        self.source = source
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        detail = "\n".join(f"  {source}: {problem}" for problem in self.problems)
        super().__init__(f"{source}: {count} in the machine spec", detail=detail, hint=hint)

    def __reduce__(self) -> tuple[object, ...]:
        # An exception is pickled as its class and its message, which is not what this one is made from.
        return type(self), (self.source, self.problems), vars(self)


class NotFound(KvmctlError):
    """There is no machine, file or medium of that name."""

    exit_code = 4


class ImageMissing(NotFound):
    """The store has no image of that name. `image` is the name, `is_known` whether the catalogue knows it."""

    def __init__(
        self, summary: str, *, detail: str = "", hint: str = "", image: str = "", is_known: bool = False
    ) -> None:
        super().__init__(summary, detail=detail, hint=hint)
        self.image = image
        self.is_known = is_known


class NotRunning(KvmctlError):
    """The machine is not running."""

    exit_code = 5


class AlreadyRunning(KvmctlError):
    """The machine is running, or being started by somebody else."""

    exit_code = 6


class Busy(KvmctlError):
    """Something that has one user at a time has one. `holder` is its process id, where it could be found out."""

    exit_code = 7

    def __init__(self, summary: str, *, detail: str = "", hint: str = "", holder: int | None = None) -> None:
        super().__init__(summary, detail=detail, hint=hint)
        self.holder = holder


class MonitorBusy(Busy):
    """Another client holds the QMP socket, and QEMU serves one at a time."""


class ConsoleBusy(Busy):
    """Another terminal is attached to the console."""


class ImageBusy(Busy):
    """Another process has the disk image open for writing."""


class PortBusy(Busy):
    """Another process listens on that address and port."""


class HostError(KvmctlError):
    """This host can't do what is asked of it."""

    exit_code = 8


class QemuNotFound(HostError):
    """No QEMU binary was found."""


class QemuTooOld(HostError):
    """The QEMU found is older than the oldest one supported."""


class KvmUnavailable(HostError):
    """``accel = "kvm"`` was asked for and KVM can't be used."""


class TemplateMisfit(HostError):
    """A template was made by another QEMU, on another CPU, or of something else than it is asked for."""


class AptError(HostError):
    """A package of the distribution can't be had: there is no apt, no such package, or no way to its mirror."""


class LaunchFailed(KvmctlError):
    """QEMU was started and did not come up; `detail` holds its own words."""

    exit_code = 9


class DeadlineExceeded(KvmctlError):
    """No answer within the time given."""

    exit_code = 10


class QmpError(KvmctlError):
    """QEMU refused a command. `error_class` is QMP's own, ``GenericError`` mostly."""

    exit_code = 11

    def __init__(self, summary: str, *, detail: str = "", hint: str = "", error_class: str = "") -> None:
        super().__init__(summary, detail=detail, hint=hint)
        self.error_class = error_class


class MonitorLost(QmpError):
    """QEMU closed the monitor in the middle of a conversation."""


class AgentError(KvmctlError):
    """The guest agent is absent, refused, or does not keep to its protocol. `error_class` is the agent's own."""

    exit_code = 12

    def __init__(self, summary: str, *, detail: str = "", hint: str = "", error_class: str = "") -> None:
        super().__init__(summary, detail=detail, hint=hint)
        self.error_class = error_class


class ImageError(KvmctlError):
    """A disk image can't be made or read."""

    exit_code = 13


class StateError(KvmctlError):
    """A file of kvmctl's own can't be read or written."""

    exit_code = 14


class TemplateDamaged(StateError):
    """Files of a template are missing, or are not what they were when it was made."""


class CopyFailed(KvmctlError):
    """A file can't be copied into the guest or out of it; what was there before is there still."""

    exit_code = 17


class Unreachable(KvmctlError):
    """There is no way into the guest by its network, or it lets nobody in."""

    exit_code = 15


class HostKeyChanged(Unreachable):
    """What answers in the guest's place shows another host key than the one on record."""


class WaitFailed(KvmctlError):
    """What was waited for has failed: waiting longer would not bring it."""

    exit_code = 16


class DownloadError(KvmctlError):
    """An image can't be downloaded, or is not the one that its publisher has."""

    exit_code = 18


class DigestMismatch(DownloadError):
    """What was downloaded is not what the publisher's checksum is of; nothing of it was kept."""


class CommandFailed(KvmctlError):
    """A command in the guest did not end as it had to; `detail` is what it printed."""

    exit_code = 19
