"""What a user types at a prompt, for type checkers to read (tests/test_packaging.py); it is never run."""

from kvmctl import *  # noqa: F403


async def pid() -> int:
    async with launch("tiny") as vm:  # noqa: F405
        return vm.pid
