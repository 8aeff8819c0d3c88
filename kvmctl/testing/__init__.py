"""For authors of test harnesses: the pytest plugin, fakes, and checks against QEMU's own schema."""
