"""Recordings of procedures with labelled mistakes: Assembly101, ATA, CaptainCook4D, EgoPER."""

from dust.convert.mistakes.convert import READERS, convert_mistakes

__all__ = ["READERS", "convert_mistakes"]
