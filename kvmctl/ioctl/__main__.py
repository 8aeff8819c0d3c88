"""``python -m kvmctl.ioctl [--json]``: everything KVM has to say on this host. Exits 1 where KVM can't be used."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from kvmctl.ioctl.inventory import take
from kvmctl.ioctl.report import render


def main(arguments: list[str] | None = None) -> int:
    """Print the report; the status to exit with."""
    parser = argparse.ArgumentParser(prog="python -m kvmctl.ioctl", description="Everything KVM says on this host.")
    parser.add_argument("--json", action="store_true", help="print JSON, with the raw CPUID words and registers")
    options = parser.parse_args(arguments)
    inventory = take()
    sys.stdout.write(json.dumps(asdict(inventory), indent=2) + "\n" if options.json else render(inventory))
    return 0 if inventory.kvm.state == "usable" else 1


if __name__ == "__main__":
    sys.exit(main())
