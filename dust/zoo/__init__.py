"""Weights by name: where they are, whose they are, and whether what arrived is what was published.

``resolve("zoo://timesformer_8x32_224_k400")`` is all that most callers need. Importing this package is light: no
torch, and the network's libraries only when something is fetched.
"""

from dust.zoo.cache import SCHEME, cached, cached_names, cached_path, download, resolve, verify
from dust.zoo.entries import ENTRIES, Entry, HubFile, class_names, get
from dust.zoo.table import markdown

__all__ = [
    "ENTRIES",
    "SCHEME",
    "Entry",
    "HubFile",
    "cached",
    "cached_names",
    "cached_path",
    "class_names",
    "download",
    "get",
    "markdown",
    "resolve",
    "verify",
]
