"""``python -m kvmctl``: the command line, for where the console script is not on PATH."""

from __future__ import annotations

from kvmctl.cli.entry import main

if __name__ == "__main__":
    main()
