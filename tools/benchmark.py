"""What dust costs, and what it costs beside others: the sub-commands of ``dust benchmark`` and of benchmarks/."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks/ is not installed

from benchmarks.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
