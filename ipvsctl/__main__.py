"""`python -m ipvsctl`: the command without its script."""

import sys

from ipvsctl.cli.main import main

sys.exit(main())
