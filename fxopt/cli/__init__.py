"""The command line: it parses arguments, makes one library call and renders the report.

Nothing here imports torch before a command runs, so that `fxopt --help` answers at once.

>>> from fxopt.cli import main
>>> main(["passes", "no-such-pass"])
2
"""

from fxopt.cli.app import main

__all__ = ["main"]
