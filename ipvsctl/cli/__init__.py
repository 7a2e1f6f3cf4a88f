"""The command line: parse, make a plan, run it, show the result. Everything that thinks is in the layers above."""
