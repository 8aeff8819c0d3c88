"""What is remembered of a run that is over: one line in the machine's history, when the next one takes its place."""

from __future__ import annotations

import json
import os
from contextlib import suppress

from kvmctl import files
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.events import Exit, ExitReason, derive
from kvmctl.runtime.journal import Journal, read_events

_KEPT = 100


def read_last_exit(paths: MachinePaths) -> Exit | None:
    """How the machine's last run ended: by its journal, else by its history; None where it never ran."""
    if os.path.exists(paths.journal):
        return find_exit(paths)
    for line in reversed(_read_lines(paths)):
        with suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            return Exit(ExitReason(record["reason"]), record["ended"], record["status"], record["detail"])
    return None


def find_exit(paths: MachinePaths, journal: Journal | None = None) -> Exit:
    """How a run ended: the one of `journal`, or else of the journal in the run directory. Raises StateError."""
    if journal is None:
        with Journal(paths) as found:
            return find_exit(paths, found)
    end = derive(journal.events()).exit
    if end.time is not None:
        return end
    # A journal without its name is of a run that has been cleared away, and the log beside it is another's.
    words = _last_words(paths) if journal.has_name() else ""
    if words:
        return Exit(ExitReason.CRASHED, _modified(paths.qemu_log), end.status, words)
    return Exit(end.reason, journal.modified(), end.status, end.detail)


def archive(paths: MachinePaths) -> None:
    """Write the end of the run that was set aside into the history, where it is not yet. Raises StateError."""
    before = paths._replace(run=paths.before)
    if not os.path.exists(before.journal):
        return
    end = find_exit(before)
    record = {
        "started": derive(read_events(before)).started,
        "ended": end.time,
        "reason": end.reason.value,
        "status": end.status,
        "detail": end.detail,
    }
    lines, line = _read_lines(paths), json.dumps(record)
    if lines[-1:] == [line]:
        return  # the start that wrote it failed, and the run was put back
    files.make_private_dir(paths.state)
    files.write_atomic(paths.history, "".join(f"{line}\n" for line in [*lines[-(_KEPT - 1) :], line]).encode())


def _read_lines(paths: MachinePaths) -> list[str]:
    try:
        with open(paths.history, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise files.cannot("read", paths.history, error) from error


def _last_words(paths: MachinePaths) -> str:
    """What QEMU says when it dies of itself: an assertion, an abort, a failed allocation."""
    for line in reversed(files.read_tail(paths.qemu_log, limit=4096).splitlines()):
        if any(
            word in line for word in ("Assertion", "assert", "ERROR:", "Aborted", "cannot allocate", "KVM: ", "error:")
        ):
            return line.strip()
    return ""


def _modified(path: str) -> float | None:
    with suppress(OSError):
        return os.stat(path).st_mtime
    return None
