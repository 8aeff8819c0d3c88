"""For authors of test harnesses: the pytest plugin, and the fakes that kvmctl's own tests use."""
