"""``python -m edgekit`` is the command ``edgekit``."""

import sys

from edgekit.cli import main

__all__: list[str] = []

sys.exit(main())
