"""What the zoo knows of one file of weights."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit


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
    whole video), ``crop`` in pixels; ``classes`` of the file's head, None where it is not stated.
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
    top1: float | None = None
    top5: float | None = None
    views: str = ""

    @property
    def filename(self) -> str:
        """The file's name in our cache and on a mirror; unique in the zoo."""
        if self.urls:
            return PurePosixPath(urlsplit(self.urls[0]).path).name
        assert self.hub is not None, f"{self.name} has neither a URL nor a Hugging Face file"
        return self.name + PurePosixPath(self.hub.filename).suffix

    @property
    def link(self) -> str:
        """Where a person finds the file."""
        if self.urls:
            return self.urls[0]
        assert self.hub is not None
        return self.hub.url
