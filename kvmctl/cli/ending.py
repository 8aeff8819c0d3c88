"""How a command ends that could not do what it was asked: in words on stderr, with the exit code of the error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kvmctl import KvmctlError
from kvmctl.cli import output


@contextmanager
def ending_well() -> Iterator[None]:
    """Turn errors into words and exit codes; ``KVMCTL_DEBUG`` in the environment has their traceback shown."""
    output.prepare()
    try:
        yield
    except KvmctlError as error:
        if os.environ.get("KVMCTL_DEBUG"):
            raise
        output.fail(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
