"""`python -m fxopt` is the command line.

>>> callable(main)
True
"""

import sys

from fxopt.cli import main

if __name__ == "__main__":
    sys.exit(main())
