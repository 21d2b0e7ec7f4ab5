"""A sharded checkpoint as one file, or one file as a sharded checkpoint:"""

import sys

from dust.cli.convert_checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
