"""Print the figures of a finished run: ``python tools/show_result.py OUTPUT_DIR``."""

import json
import sys
from pathlib import Path


def main() -> int:
    run = Path(sys.argv[1])
    report = json.loads((run / "results" / "test.json").read_text())
    for name, value in report["metrics"].items():
        print(f"{name:>16} {value:6.2f} %")
    print(f"report: {run / 'results'}   checkpoint: {run / 'checkpoints'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
