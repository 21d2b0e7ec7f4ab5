"""dust: video recognition from your own clips, sensors, point tracks and procedures."""

__version__ = "0.1.0"
