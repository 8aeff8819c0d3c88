"""The shell scripts that copy files at the guest's end. They take their words as arguments, never in their text.

Both begin in the same way: they open the port by its name and say so on it, with a mark that nobody else uses, so that
what an earlier copy has left there is told from what they say. Whoever else has the port open is left of a copy whose
client was killed, for clients hold a lock while they copy: it is ended. Without a port, a file in its place is read
from (or the answer given on standard output), and the agent's own file calls do the rest.

They need ``tar`` for directories only, and of the rest what POSIX has; ``dd`` is asked first whether it counts bytes.
"""

from __future__ import annotations

from typing import Final

NO_PORT: Final = 71
"""The exit code that says that the guest has no such port."""

_OPEN: Final = r"""
mark=$1 name=$2 spool=$3
shift 3
umask 077
find_port() {
    port=/dev/virtio-ports/$name
    [ -c "$port" ] && return
    for file in /sys/class/virtio-ports/*/name; do
        [ -r "$file" ] && read -r found <"$file" && [ "$found" = "$name" ] || continue
        port=${file%/name}
        port=/dev/${port##*/}
        [ -c "$port" ] && return
    done
    return 1
}
is_free() {
    (exec 3<>"$port") 2>/dev/null
}
end_holder() {
    for file in /proc/[0-9]*/fd/*; do
        [ "$file" -ef "$port" ] || continue
        pid=${file#/proc/}
        kill -s KILL "${pid%%/*}"
    done 2>/dev/null
}
say() {
    if [ -n "$name" ]; then
        printf '\n%s %s\n' "$mark" "$1" >&3
    else
        printf '\n%s %s\n' "$mark" "$1"
    fi
}
fail() {
    [ -z "$1" ] || echo "$1" >&2
    say 'end 1'
    exit 1
}
if [ -n "$name" ]; then
    find_port || exit 71
    is_free || end_holder
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        is_free && break
        sleep 0.1 2>/dev/null || sleep 1
    done
    exec 3<>"$port" || exit 1
elif [ -n "$spool" ]; then
    exec 3<"$spool" || exit 1
fi
"""

RECEIVE: Final = (
    _OPEN
    + r"""
kind=$1 size=$2 mode=$3 time=$4 base=$5 target=$6
take() {
    [ "$size" = 0 ] && return
    if dd if=/dev/null count=1 iflag=fullblock,count_bytes status=none 2>/dev/null; then
        dd bs=65536 count="$size" iflag=fullblock,count_bytes status=none <&3
    else
        head -c "$size" <&3
    fi
}
merge() (
    for item in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        [ -e "$item" ] || [ -L "$item" ] || continue
        there=$2/${item##*/}
        if [ ! -L "$item" ] && [ -d "$item" ] && [ -d "$there" ]; then
            merge "$item" "$there" || exit
        elif [ -d "$there" ]; then
            echo "'$there' is a directory" >&2
            exit 1
        elif [ ! -L "$item" ] && [ -d "$item" ] && [ -e "$there" ]; then
            echo "'$there' is there, and no directory" >&2
            exit 1
        else
            mv -f "$item" "$there" || exit
        fi
    done
)
case $target in
    */) [ -d "$target" ] || fail "there is no directory '$target'" ;;
esac
[ -d "$target" ] && target=${target%/}/$base
if [ "$kind" = file ]; then
    [ ! -d "$target" ] || fail "'$target' is a directory"
elif [ -e "$target" ] && [ ! -d "$target" ]; then
    fail "'$target' is there, and no directory"
fi
place=${target%/*}/
[ -d "$place" ] || fail "there is no directory '$place'"
temporary=$place.$mark
trap 'rm -rf "$temporary"; [ -z "$spool" ] || rm -f "$spool"' EXIT
# The last: whoever complains of something is heard by nobody any more, where the agent has died.
trap 'exit 1' HUP INT TERM PIPE
if [ "$kind" = file ]; then
    : >"$temporary" || fail ''
    say ready
    take >"$temporary" || fail ''
    came=$(ls -ln "$temporary" | { read -r _ _ _ _ came _; echo "$came"; })
    [ "$came" = "$size" ] || fail "only $came of $size bytes came"
    chmod "$mode" "$temporary" && TZ=UTC0 touch -t "$time" "$temporary" && mv -f "$temporary" "$target" || fail ''
else
    command -v tar >/dev/null || fail 'there is no tar, which it takes for a directory'
    mkdir "$temporary" || fail ''
    say ready
    take | tar -xpf - -C "$temporary" || fail ''
    if [ -d "$target" ]; then
        merge "$temporary/tree" "$target" || fail ''
    else
        mv "$temporary/tree" "$target" || fail ''
    fi
fi
say 'end 0'
"""
)
"""Takes a file or an archive: ``MARK PORT SPOOL file|tree SIZE MODE TIME NAME TARGET``.

Nothing is at the target before all of it has come, and nothing stays beside it.
"""

SEND: Final = (
    _OPEN
    + r"""
source=$1
[ -e "$source" ] || fail "there is no '$source'"
[ -r "$source" ] || fail "'$source' can't be read"
about() {
    stat -L -c "$1" "$source" 2>/dev/null
}
if [ -d "$source" ]; then
    command -v tar >/dev/null || fail 'there is no tar, which it takes for a directory'
    say "tree $(about '%a %Y')"
    if [ -n "$name" ]; then
        tar -cf - -C "$source" . >&3
    else
        tar -cf "$spool" -C "$source" .
    fi
elif [ -f "$source" ]; then
    say "file $(about '%a %Y %s')"
    [ -z "$name" ] || cat "$source" >&3
else
    fail "'$source' is neither a file nor a directory"
fi
say "end $?"
"""
)
"""Sends a file or an archive: ``MARK PORT SPOOL SOURCE``. What it is comes first, and at the end how it went."""

MAKE_SPOOL: Final = """
umask 077
set -C
for place in /var/tmp /tmp /run /dev/shm; do
    : >"$place/$1.spool" && echo "$place/$1.spool" && exit
done 2>/dev/null
exit 1
"""
REMOVE: Final = 'rm -f "$1"'
