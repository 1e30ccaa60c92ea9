"""The command line: one module a subcommand, each of which parses, calls and prints."""
