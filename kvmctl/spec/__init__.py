"""What was asked for: machine specs as frozen pydantic models. Pure, but for `load`, which reads one file."""
