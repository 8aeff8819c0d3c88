"""For authors of test harnesses: fakes that are held against the real things, and checks against QEMU's own schema."""
