"""Serial consoles that log somebody in by themselves: what systemd's unit for them is to be told. Pure."""

from __future__ import annotations

from typing import Final

DIRECTORY: Final = "/run/systemd/system/serial-getty@.service.d"
"""Where in the guest a drop-in for them lies until its next boot."""


RESTART: Final = "systemctl daemon-reload; systemctl --no-block try-restart 'serial-getty@*.service'"
"""The shell command by which the drop-in counts: for consoles that were quicker, too, while others are yet to start."""


def autologin_drop_in(user: str) -> str:
    """The drop-in that has serial consoles log in `user`, whose password nobody is asked for.

    The line is systemd's own but for that: ``%I``, and no ``-``, because agetty of util-linux 2.34 and older wants it.
    """
    command = f"-/sbin/agetty --autologin {user} --keep-baud 115200,57600,38400,9600 %I $TERM"
    return f"[Service]\nExecStart=\nExecStart={command}\n"
