"""Rules that turn a survey into findings, one file a subject. Pure: a rule takes a survey and yields findings."""
