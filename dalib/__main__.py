"""``python -m dalib`` and the command ``dalib``."""

import sys

from dalib.cli import main

if __name__ == "__main__":
    sys.exit(main())
