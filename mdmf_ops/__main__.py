"""`python -m mdmf_ops`: the `mdmf` command."""

import sys

from mdmf_ops.cli import main

sys.exit(main())
