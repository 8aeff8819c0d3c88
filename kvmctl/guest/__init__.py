"""I/O with what runs inside a machine, and the embedded guest."""
