# SPDX-License-Identifier: Apache-2.0
"""``python -m lazy_engine.cli``, the same as ``lazy-engine``."""

import sys

from lazy_engine.cli import main

if __name__ == "__main__":
    sys.exit(main())
