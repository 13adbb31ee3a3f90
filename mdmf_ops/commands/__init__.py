"""The verbs of the `mdmf` command, one file each: `add_arguments(parser)` and `run(arguments, rest) -> exit status`."""
