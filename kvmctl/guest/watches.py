"""Commands that wait within the guest: one is started, and ends when what is waited for is so. Pure.

A question asked again and again from outside would cost a process in the guest, and a turn at its agent, each time.
Each says what it sees on standard output, a line whenever that changes, and ends with 0 when it has come, `FAILED` when
it won't, 127 where the guest has not what it takes. They are for any POSIX shell, busybox's too.
"""

from __future__ import annotations

from typing import Final

FAILED: Final = 3
"""The exit code that says: it has failed, and waiting would not bring it."""
MISSING: Final = 127
CLOUD_INIT_DIR: Final = "/run/cloud-init"

_PORT: Final = """
wanted=$(printf ':%04X' "$1")
[ -r /proc/net/tcp ] || exit 127
last=-
while :; do
    seen=
    for table in /proc/net/tcp /proc/net/tcp6; do
        [ -r "$table" ] || continue
        while read -r _ local _ state _; do
            [ "$state" = 0A ] || continue
            case $local in *"$wanted") exit 0 ;; esac
            seen="$seen ${local##*:}"
        done <"$table"
    done
    [ "$seen" = "$last" ] || { last=$seen; echo "listening:$seen"; }
    sleep 0.2
done
"""
"""The kernel tells nobody that a port is listened on; looking at its table is the only way."""

_COMMAND: Final = """
last=-
while :; do
    seen=$({ sh -c "$1" 2>&1 </dev/null; printf '\\n%s' "$?"; } | tail -c 500)
    code=${seen##*
}
    said=$(printf '%s\\n' "$seen" | sed '$d' | grep . | tail -n 1)
    [ "$code" = 0 ] && { printf '%s\\n' "$said"; exit 0; }
    [ "$code $said" = "$last" ] || {
        last="$code $said"
        printf '%s\\n' "exit code $code${said:+: $said}"
    }
    sleep 0.5
done
"""
"""Nobody but the command knows when it will succeed."""

_UNIT: Final = """
command -v systemctl >/dev/null || exit 127
pipe=$(mktemp -u /tmp/kvmctl-XXXXXXXX) && mkfifo -m 600 "$pipe" && exec 3<>"$pipe" && rm "$pipe" || exit 1
journalctl --quiet --follow --lines=0 --output=cat --unit="$1" >&3 2>/dev/null 3>&- &
journal=$!
while sleep 1; do echo; done >&3 2>/dev/null 3>&- &
trap 'kill $journal $! 2>/dev/null' EXIT
trap 'exit 143' HUP INT TERM
last=-
while :; do
    LoadState=; ActiveState=; SubState=; Result=; Type=; ExecMainExitTimestampMonotonic=
    while IFS='=' read -r key value; do
        case $key in LoadState | ActiveState | SubState | Result | Type | ExecMainExitTimestampMonotonic)
            eval "$key=\\$value" ;;
        esac
    done <<EOT
$(systemctl show --property=LoadState,ActiveState,SubState,Result,Type,ExecMainExitTimestampMonotonic -- "$1")
EOT
    seen="$ActiveState ($SubState)"
    [ "$LoadState" = loaded ] || seen="$seen, $LoadState"
    [ "$seen" = "$last" ] || { last=$seen; echo "$seen"; }
    case $ActiveState:$Type:$Result:${ExecMainExitTimestampMonotonic:-0} in
        active:*) exit 0 ;;
        inactive:oneshot:success:0) ;;
        inactive:oneshot:success:*) echo 'inactive (has run)'; exit 0 ;;
        failed:*)
            echo "failed: $Result"
            journalctl --quiet --no-pager --lines=10 --output=cat --unit="$1"
            exit 3 ;;
    esac
    read -r _ <&3
done
"""
"""systemd speaks of a unit in its journal whenever it changes; those who may not read that, and units that are kept
from it, are looked at every second."""

_CLOUD_INIT: Final = """
command -v cloud-init >/dev/null || exit 127
last=-
until [ -e "$1/result.json" ]; do
    [ -e "$1/disabled" ] && { echo 'status: disabled'; exit 0; }
    seen=$(sed -n 's/.*"stage": *"\\([a-z-]*\\)".*/\\1/p' "$1/status.json" 2>/dev/null)
    [ "$seen" = "$last" ] || { last=$seen; echo "in stage ${seen:-none}"; }
    systemctl --quiet is-failed cloud-final.service 2>/dev/null && break
    sleep 0.5
done
grep -q '"errors": *\\[\\]' "$1/result.json" 2>/dev/null && { echo 'status: done'; exit 0; }
cloud-init status --long
exit 3
"""
"""By the files that tell of its stages and of its end (https://docs.cloud-init.io, "status.json"), as its own command
``status --wait`` has it, which takes seconds to start in a guest without KVM."""


def watch_port(port: int) -> list[str]:
    """The command that waits until something in the guest listens on the TCP port."""
    return _shell(_PORT, str(port))


def watch_command(command: str) -> list[str]:
    """The command that waits until a command of the shell succeeds."""
    return _shell(_COMMAND, command)


def watch_unit(unit: str) -> list[str]:
    """The command that waits until the systemd unit is active; one that runs once and ends, until it has."""
    return _shell(_UNIT, unit)


def watch_cloud_init() -> list[str]:
    """The command that waits until cloud-init has finished."""
    return _shell(_CLOUD_INIT, CLOUD_INIT_DIR)


def describe_ports(line: str) -> str:
    """`watch_port`'s line for people: its ports are in hexadecimal, as the kernel has them."""
    head, _, ports = line.partition(":")
    if head != "listening":
        return line
    try:
        numbers = sorted({int(word, 16) for word in ports.split()})
    except ValueError:
        return line
    return f"{head}: {', '.join(map(str, numbers)) or 'nothing'}"


def _shell(script: str, *arguments: str) -> list[str]:
    return ["sh", "-c", script, "kvmctl", *arguments]
