"""What becomes of a machine when the user who started it logs out: its run directory may vanish."""

from __future__ import annotations

import os
import pwd

from kvmctl.plan.model import Plan
from kvmctl.plan.paths import Roots


def warn_of_logout(plan: Plan, roots: Roots) -> Plan:
    """`plan`, with a warning if its machine will outlive the login session that its run directory goes with."""
    user = _user()
    if not roots.runtime_is_volatile or os.path.exists(f"/var/lib/systemd/linger/{user}"):
        return plan
    warning = (
        f"{roots.runtime!r} vanishes when {user} logs out, and the machine is out of reach then; "
        f"to keep it: loginctl enable-linger {user}"
    )
    return plan._replace(warnings=(*plan.warnings, warning))


def _user() -> str:
    """The user's name, or number where the system knows no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
