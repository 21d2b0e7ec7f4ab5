"""Plays the recordings of a split to a trained point track model, frame by frame, and writes their timelines."""

import sys

from dust.cli.stream_tracks import main

if __name__ == "__main__":
    sys.exit(main())
