"""Answers while a recording comes in: steps of a procedure, classes of point tracks."""
