"""The small Linux guest, built from the distribution's packages with the standard library alone and no privileges.

``scripts/build-guest`` is the command. Works with any Python from 3.10, because it runs before there is a venv; so does
what it takes of kvmctl: the readers of packages and modules, and the writer of initramfs archives.
"""
