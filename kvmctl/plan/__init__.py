"""What is decided before anything happens: pure frozen values, no I/O, no pydantic."""
