"""What the zoo knows of each file of weights. The list is data: ``weights.yaml`` beside this file."""

import dataclasses
import difflib
import logging
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, get_args, get_type_hints
from urllib.parse import urlsplit

import yaml

from dust.utils.errors import ConfigError, DustError

logger = logging.getLogger(__name__)

MB = 1_000_000
LIST = Path(__file__).with_name("weights.yaml")
#: What benchmarks/zoo_figures.py counted of each row.
FIGURES = Path(__file__).with_name("figures.yaml")


@dataclass(frozen=True)
class HubFile:
    """One file of a Hugging Face repository. ``revision`` is a commit, so that the file cannot change under us."""

    repo: str
    filename: str
    revision: str

    @property
    def url(self) -> str:
        return f"https://huggingface.co/{self.repo}/blob/{self.revision}/{self.filename}"


@dataclass(frozen=True)
class Entry:
    """One file of weights.

    ``urls`` are tried in order, then ``hub``. ``sha256`` is the full digest where the publisher shows one,
    ``sha256_prefix`` its beginning where only that is published; with neither, the first download is trusted and
    remembered. ``size`` in bytes, right to within ``size_tolerance`` bytes; None where nobody states it.
    ``key_map`` names the layout of the file's state dict, ``config`` the YAML to use it with (relative to the
    checkout) and ``options`` what must be said besides. ``top1`` and ``top5`` in percent, as published at ``source``;
    ``views`` is "clips x crops". ``frames`` of the clip, ``rate`` the step between them in frames (0: spread over the
    whole video), ``crop`` in pixels; ``classes`` of the file's head, None where it is not stated; ``class_list`` a file
    beside the list, one name per line in the order of the logits, "" where there is none.
    ``published_gmacs``: 10^9 multiply-adds of one view as published at ``source``, and ``gmacs_differ`` why our own
    count differs from it by more than 1 %.
    ``saved_as`` is the file's name in our cache, where another entry's has the name that stands in the URL.
    """

    name: str
    licence: str
    data: str
    key_map: str
    source: str
    frames: int
    crop: int
    rate: int = 0
    urls: tuple[str, ...] = ()
    hub: HubFile | None = None
    sha256: str = ""
    sha256_prefix: str = ""
    size: int | None = None
    size_tolerance: int = 0
    config: str = ""
    options: str = ""
    classes: int | None = None
    class_list: str = ""
    top1: float | None = None
    top5: float | None = None
    views: str = ""
    saved_as: str = ""
    published_gmacs: float | None = None
    gmacs_differ: str = ""

    @property
    def filename(self) -> str:
        """The file's name in our cache and on a mirror; unique in the zoo."""
        if self.saved_as:
            return self.saved_as
        if not self.urls:
            assert self.hub is not None, f"{self.name} has neither a URL nor a Hugging Face file"
            return self.name + PurePosixPath(self.hub.filename).suffix
        path = PurePosixPath(urlsplit(self.urls[0]).path)
        return path.name if path.suffix else f"{self.name}.pth"  # Google Drive's URLs do not tell a file's name

    @property
    def link(self) -> str:
        """Where a person finds the file."""
        if self.urls:
            return self.urls[0]
        assert self.hub is not None
        return self.hub.url


def read_entries(path: Path = LIST) -> dict[str, Entry]:
    """Read a list of groups ``{common: fields, weights: {name: fields}}``. ConfigError names all that is wrong."""
    entries: dict[str, Entry] = {}
    problems: list[str] = []
    for group in yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        for name, fields in group["weights"].items():
            if name in entries:
                problems.append(f"{name} stands there twice")
            found = _problems({"name": name, **group.get("common", {}), **fields})
            problems += [f"{name}: {text}" for text in found]
            if not found:
                entries[name] = _entry({"name": name, **group.get("common", {}), **fields})
    if problems:
        raise ConfigError(f"{path}: " + "; ".join(problems))
    return entries


def _problems(fields: dict[str, Any]) -> list[str]:
    kinds = get_type_hints(Entry)
    found = [f"{key} is no field of a file of weights" for key in fields if key not in kinds]
    required = [one.name for one in dataclasses.fields(Entry) if one.default is dataclasses.MISSING]
    found += [f"{key} is missing" for key in required if key not in fields]
    if "urls" not in fields and "hub" not in fields:
        found.append("urls and hub are missing: where is the file?")
    for key, value in fields.items():
        if key == "urls":
            right = isinstance(value, list) and all(isinstance(url, str) for url in value)
        elif key == "hub":
            right = isinstance(value, dict) and set(value) == {"repo", "filename", "revision"}
        else:
            known = get_args(kinds.get(key, Any)) or (kinds.get(key, Any),)
            right = key not in kinds or type(value) in known
        if not right:
            found.append(f"{key} is {value!r}, of another type than this field has")
    return found


def _entry(fields: dict[str, Any]) -> Entry:
    hub = HubFile(**fields["hub"]) if "hub" in fields else None
    return Entry(**{**fields, "urls": tuple(fields.get("urls", ())), "hub": hub})


ENTRIES: dict[str, Entry] = read_entries()
#: Names of before -> those of today, for one release.
RENAMED = {"clip_vit_b16_openai": "clip_vit_b16"}


def figures() -> dict[str, dict[str, float]]:
    """Map row -> ``params`` in 10^6 and ``gmacs``, 10^9 multiply-adds of one view at the row's frames and crop,
    counted."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(FIGURES.read_text(encoding="utf-8"), loader)


def class_names(entry: Entry) -> list[str] | None:
    """Return the classes of a file of weights in the order of its logits; None where nobody lists them."""
    if not entry.class_list:
        return None
    return (LIST.parent / entry.class_list).read_text(encoding="utf-8").splitlines()


def get(name: str) -> Entry:
    """Return the entry called ``name``; a DustError with the nearest names if there is none."""
    if name in RENAMED:
        logger.warning("zoo://%s is called zoo://%s now", name, RENAMED[name])
        name = RENAMED[name]
    if name in ENTRIES:
        return ENTRIES[name]
    near = difflib.get_close_matches(name, ENTRIES, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise DustError(f"the zoo has no weights named {name!r}. {hint}`dust zoo list` shows all names.")
