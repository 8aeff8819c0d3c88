"""I/O that acts: the only package that creates, signals or kills a VM."""
