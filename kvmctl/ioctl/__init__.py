"""KVM by ioctl: a leaf that imports nothing of kvmctl and only the standard library."""
