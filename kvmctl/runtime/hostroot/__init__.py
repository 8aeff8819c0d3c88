"""A machine made of its host: the host's root directory, or any other, as the root of a guest that runs one command."""
