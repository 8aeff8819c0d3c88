"""The shell scripts that start and end a command in the guest. All they need is a POSIX shell.

Words reach them as arguments and are never part of a script's text, so nothing in a word can be taken for shell.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from kvmctl.errors import AgentError

SHELL: Final = "/bin/sh"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\$?")

BECOME: Final = r"""
# The agent's environment may have variables of these names.
unset mask stem session entry
if [ -n "$1" ]; then
    # Without a fork, which $(umask) would take.
    while read -r key value; do
        if [ "$key" = Umask: ]; then mask=$value; break; fi
    done </proc/self/status
    mask=${mask:-$(umask)}
    umask 077
    set -C
    for place in /var/tmp /tmp /run /dev/shm; do
        if { [ -z "$2" ] || mkfifo "$place/$1.stdin"; } && true >"$place/$1.stdout" && true >"$place/$1.stderr"; then
            stem=$place/$1
            break
        fi
        rm -f "$place/$1.stdin" "$place/$1.stdout" "$place/$1.stderr"
    done
    [ -n "$stem" ] || exit 213
    exec >>"$stem.stdout" 2>>"$stem.stderr"
    # Not before: whoever sees it takes the names of the others away.
    true >"$stem.ready" || { rm -f "$stem.stdin" "$stem.stdout" "$stem.stderr"; exit 213; }
    set +C
    umask "$mask"
    if [ -n "$2" ]; then
        exec <"$stem.stdin"
        rm -f "$stem.stdin"
    fi
    command -v setsid >/dev/null && session=setsid
fi
shift 2
while [ "$1" != -- ]; do
    case $1 in
        cd=*) cd -- "${1#cd=}" || exit 126 ;;
        line=*) line=${1#line=} ;;
        user=*)
            user=${1#user=}
            entry=$(getent passwd "$user" 2>/dev/null || grep "^$user:" /etc/passwd) || {
                echo "kvmctl: the guest has no user '$user'" >&2
                exit 126
            }
            ;;
        env=PATH=*)
            [ -z "$session" ] || session=$(command -v setsid)
            export "${1#env=}"
            ;;
        env=*) export "${1#env=}" ;;
    esac
    shift
done
shift
if [ -n "$entry" ]; then
    IFS=: read -r _ _ uid gid _ home _ <<END
$entry
END
    if [ "$uid" != "$(id -u)" ]; then
        # Its own output is for it to open again, as /dev/stderr. Without a redirection, which dash makes in its own
        # process first: the file would be another one, /dev/null say.
        for file in "/proc/$$/fd/1" "/proc/$$/fd/2"; do
            if [ -f "$file" ] || [ -p "$file" ]; then chown "$uid" "$file"; fi
        done
        [ -z "$home" ] || export HOME="$home" USER="$user" LOGNAME="$user"
        if setpriv --help 2>&1 | grep -q -e --init-groups; then
            exec setpriv --reuid "$uid" --regid "$gid" --init-groups -- $session "$@"
        fi
        exec su -s /bin/sh -c "exec $line" "$user"
    fi
    export HOME="$home" USER="$user" LOGNAME="$user"
fi
exec $session "$@"
"""
"""Becomes the command: ``MARK STDIN [env=NAME=VALUE|cd=DIRECTORY|user=NAME|line=COMMAND]... -- COMMAND``.

With a mark, it makes files of that name in one of `PLACES`, for its user only, which are the command's output; and,
where STDIN is not empty, a FIFO, which is its input and loses its name when it is open. One more of them says that
the output is open. Then the command has a session
of its own where the guest has ``setsid``, so that a signal reaches what it has started too. `NO_PLACE` is its exit code
where the files could not be made; there is no command then.
"""

PLACES: Final = ("/var/tmp", "/tmp", "/run", "/dev/shm")  # noqa: S108  # of the guest; the names can't be guessed
NO_PLACE: Final = 213

KILL: Final = r"""
kill -s "$2" -- "-$1" 2>/dev/null || kill -s "$2" "$1"
"""
"""Sends process ``$1`` signal ``$2``, and all of its group where it leads one."""

END: Final = r"""
kill -s TERM -- "-$1" 2>/dev/null || kill -s TERM "$1" || exit 0
for _ in 1 2 3 4 5 6 7 8 9 10; do
    kill -0 "$1" 2>/dev/null || exit 0
    sleep 0.1 2>/dev/null || sleep 1
done
kill -s KILL -- "-$1" 2>/dev/null || kill -s KILL "$1"
"""
"""Ends process ``$1``, and all of its group where it leads one: asked first, made to a second later."""

REMOVE: Final = r"""
for place in /var/tmp /tmp /run /dev/shm; do
    rm -f "$place/$1.stdout" "$place/$1.stderr" "$place/$1.stdin" "$place/$1.ready"
done
"""
"""Removes the files called ``$1``."""

END_MARKED: Final = r"""
find_all() {
    ls -l /proc/[0-9]*/fd 2>/dev/null | while read -r line; do
        case $line in
            /proc/*/fd:) pid=${line#/proc/} pid=${pid%/fd:} ;;
            *"$1"*) echo "$pid" ;;
        esac
    done
    # In brackets, so that grep does not find itself.
    grep -l -s -e "[k]${1#k}" /proc/[0-9]*/cmdline | cut -d / -f 3
}
end_all() {
    for pid in $(find_all "$2" | sort -u); do
        # The agent itself, our parent, has the files of a command open.
        [ "$pid" = $$ ] || [ "$pid" = "$PPID" ] || kill -s "$1" "$pid" 2>/dev/null || continue
        # Who was stopped hears of it only then, and would be killed before it has cleared away.
        kill -s CONT "$pid" 2>/dev/null
    done
}
end_all TERM "$1"
sleep 0.5 2>/dev/null || sleep 1
end_all KILL "$1"
for place in /var/tmp /tmp /run /dev/shm; do
    for name in stdout stderr stdin ready spool; do
        rm -rf "$place/$1.$name"
    done
done
"""
"""Ends whatever has the mark ``$1`` among its words or open files, and removes the files of that name."""


class Setting(NamedTuple):
    """What a command of the guest finds around it."""

    env: Mapping[str, str] = {}  # a mapping that nobody writes
    """Variables added to the agent's own."""
    user: str | None = None
    """The user of the guest it runs as, with their groups and home; the agent's own, root, unless given."""
    cwd: str | None = None
    """The directory it starts in."""

    def __bool__(self) -> bool:
        return bool(self.env or self.user or self.cwd)

    def check(self) -> None:
        """Raises AgentError for what no shell of the guest could be told."""
        check_env(self.env)
        if self.user is not None and not _USER.fullmatch(self.user):
            raise AgentError(f"{self.user!r} can't be a user of the guest")
        if self.cwd is not None and (not self.cwd or "\0" in self.cwd):
            raise AgentError(f"{self.cwd!r} can't be a directory of the guest")

    def words(self, argv: Sequence[str]) -> list[str]:
        """What `BECOME` is told of it."""
        found = [f"env={name}={value}" for name, value in self.env.items()]
        if self.cwd is not None:
            found.append(f"cd={self.cwd}")
        if self.user is not None:
            found += [f"user={self.user}", f"line={shlex.join(argv)}"]  # su takes its command as text
        return found


def become(argv: Sequence[str], setting: Setting, *, mark: str = "", has_stdin: bool = False) -> list[str]:
    """`argv` as started by the shell that becomes it; its streams are files called `mark`, where that is given."""
    stdin = "stdin" if has_stdin else ""
    return [SHELL, "-c", BECOME, "kvmctl", mark, stdin, *setting.words(argv), "--", *argv]


def check_env(env: Mapping[str, str]) -> None:
    """Raises AgentError for what no shell could export."""
    for name, value in env.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            raise AgentError(f"{name!r} = {value!r} can't be an environment variable in the guest")
