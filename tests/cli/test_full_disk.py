"""A runtime directory that fills up under a running machine: whatever can't be noted any more, the machine obeys."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .conftest import PATIENCE, Kvmctl

pytestmark = [pytest.mark.qemu]

SCRIPT = """
python=$1 directory=$2
kvmctl() { "$python" -m kvmctl "$@"; }
mount -t tmpfs -o size=400k,mode=700 none "$directory" || exit 99
kvmctl start tiny --name web
cat /dev/zero >"$directory/.filler"
for words in 'list --quiet' 'pause web' 'resume web' 'show web' 'start tiny' 'logs web' 'events web'; do
    kvmctl $words >&2
    echo "$words: $?"
done
timeout --preserve-status 3 "$python" -m kvmctl console web </dev/null >&2
echo "console: $?"
kvmctl kill web
echo "kill: $?"
kvmctl start tiny --name web >&2
echo "start: $?"
kvmctl list --all --quiet
rm "$directory/.filler"
kvmctl start tiny --name web
kvmctl kill web
"""


def test_a_full_runtime_directory_leaves_a_running_machine_in_reach(kvmctl: Kvmctl) -> None:
    directory = kvmctl.directory / "runtime"
    directory.mkdir()
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh", sys.executable, str(directory)],
        env=kvmctl.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    if done.returncode == 99 or "unshare:" in done.stderr:
        pytest.skip("this host allows no mounts in a user namespace")
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines() == [
        "web",
        "list --quiet: 0",
        "pause web: 0",
        "resume web: 0",
        "show web: 0",
        "start tiny: 14",
        "logs web: 0",
        "events web: 0",
        "console: 0",
        "kill: 0",
        "start: 14",
        "web",  # which is still known, with its logs
        "web",
    ], done.stderr
