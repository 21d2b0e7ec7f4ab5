"""A trained model at work: predictions for files, streams and arrays, with the very numbers of the test."""
