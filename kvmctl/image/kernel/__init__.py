"""Linux kernels at rest: where they are on a host or in its packages, what is in them, and what they need to boot."""
