"""`python -m benchmarks.papers`."""

import sys

from benchmarks.papers.runner import main

sys.exit(main())
