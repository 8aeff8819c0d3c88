"""Disk images made from a distribution's packages: fetched with apt, unpacked and configured, partitioned, bootable."""
