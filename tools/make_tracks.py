"""Point tracks from videos, for the models that read points (docs/TRACKS.md)."""

import sys

from dust.cli.make_tracks import main

if __name__ == "__main__":
    sys.exit(main())
