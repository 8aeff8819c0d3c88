"""What tests of machines need: fakes that are held to QEMU's own schema, and checks against it."""
