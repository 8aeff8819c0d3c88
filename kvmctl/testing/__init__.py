"""For authors of test harnesses: the pytest plugin, the fakes kvmctl's own tests use, and checks against QEMU's schema."""
