"""Generated data with a known answer, for quickstarts and tests."""
