"""One file per kind of device: its model and how it lowers itself to QEMU options."""
