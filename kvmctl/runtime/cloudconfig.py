"""Whether files that a user gives cloud-init can be read by it: it says so only in a log, within a guest one can't
log in to. The only importer of yaml."""

from __future__ import annotations

from typing import Final

import yaml

_FORMATS: Final = (
    "#cloud-config-archive", "#cloud-config", "#!", "#include-once", "#include", "#cloud-boothook", "#part-handler",
    "## template:", "Content-Type:", "MIME-Version:",
)  # fmt: skip
"""What user data begins with, by which cloud-init tells what it is."""


def cloud_config_problem(text: str, *, needs_header: bool) -> str:
    """What is wrong with `text`, with its line; empty where nothing is.

    User and vendor data begin with a header that says what they are, and are YAML where that is ``#cloud-config``. A
    network configuration has none and is YAML.
    """
    first = text.partition("\n")[0].rstrip()
    if needs_header and not first.startswith(_FORMATS):
        return f"begins with {first[:40]!r}, by which cloud-init can't tell what it is; '#cloud-config' is usual"
    if needs_header and first != "#cloud-config":
        return ""
    try:
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        return _marked(error)
    except yaml.YAMLError as error:
        return f"is not YAML: {error}"
    if value is None and needs_header:
        return ""
    return "" if isinstance(value, dict) else "is YAML, but no table of keys"


def _marked(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
    return f"is not YAML{place}: {error.problem or error.context}"
