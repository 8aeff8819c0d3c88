"""``kvmctl schema``."""

from __future__ import annotations

import json

import kvmctl
from kvmctl.cli import output


def schema() -> None:
    """Print the JSON Schema of machine specs.

    Editors complete and check specs by it. For Taplo and Even Better TOML, put '#:schema ./machine.schema.json' into
    the first line of a spec.

    \b
    kvmctl schema >machine.schema.json
    """
    output.emit(json.dumps(kvmctl.schema(), indent=2))
