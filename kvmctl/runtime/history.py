"""What becomes of a run that is over: one line in the machine's history, so that the next start may begin afresh."""

from __future__ import annotations

import json
import os
from contextlib import suppress

from kvmctl import files
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.events import Exit, ExitReason, derive
from kvmctl.runtime.journal import Journal, read_events

_KEPT = 100
_LOCKS = frozenset({"lock", "tether"})


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


def archive(paths: MachinePaths, *, keeps_state: bool = False) -> None:
    """Move the last run's end to the history and its files out of the way. Raises StateError.

    With `keeps_state` an ephemeral machine goes on being the one it was, and keeps what is the machine's.
    """
    if os.path.exists(paths.journal):
        _append(paths)
    kept = _LOCKS | ({os.path.basename(paths.state)} if keeps_state and paths.is_ephemeral else set())
    try:
        for name in os.listdir(paths.run):
            if name not in kept:
                _remove(os.path.join(paths.run, name))
    except OSError as error:
        raise files.cannot("clear", paths.run, error) from error


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        files.remove_tree(path)
    else:
        os.unlink(path)


def _append(paths: MachinePaths) -> None:
    end = find_exit(paths)
    record = {
        "started": derive(read_events(paths)).started,
        "ended": end.time,
        "reason": end.reason.value,
        "status": end.status,
        "detail": end.detail,
    }
    lines = [*_read_lines(paths)[-(_KEPT - 1) :], json.dumps(record)]
    files.make_private_dir(paths.state)
    files.write_atomic(paths.history, "".join(f"{line}\n" for line in lines).encode())


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
