"""I/O that only looks: what this host and its QEMU binaries can do."""
