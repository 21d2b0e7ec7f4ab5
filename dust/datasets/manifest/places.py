"""Where the files lie that a list names."""

import os
from collections.abc import Sequence

from dust.utils.files import restored
from dust.utils.text import csv_cell


def missing_file(bases: Sequence[str]) -> str:
    folders = [folder or "the working folder" for folder in bases]
    return f"a file that is missing (relative paths are looked for in {', then '.join(folders)}; see DATA.PATH_PREFIX)"


def find_file(written: str, bases: Sequence[str], check: bool) -> str | None:
    """The first place where the path exists; the first place at all if nothing is checked."""
    paths = [written] if os.path.isabs(written) else [os.path.join(folder, written) for folder in bases]
    found = next((path for path in paths if os.path.exists(path)), None)
    if found is None:  # a name that our own lists had to write in another way
        others = [restored(path) for path in paths]
        others += [os.path.join(folder, f"'{written}") for folder in bases if csv_cell(written) != written]
        found = next((path for path in others if os.path.exists(path)), None)
    return paths[0] if found is None and not check else found
