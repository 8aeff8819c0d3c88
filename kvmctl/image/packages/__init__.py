"""The distribution's packages, fetched by apt without privileges and read without dpkg."""
