"""Frames of a clip, exact by index, with all damage told. No dataset and no configuration here."""
