"""`python -m gateway` is the command `passgate`."""

import sys

from gateway.cli import main

sys.exit(main())
