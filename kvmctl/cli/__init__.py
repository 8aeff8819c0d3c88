"""The command line: one file per verb or group. A verb parses, makes one library call, prints."""
