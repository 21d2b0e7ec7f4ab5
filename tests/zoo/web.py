"""A web server on this machine that breaks off, lies and changes its mind as told."""

import dataclasses
import hashlib
import io
import os
import random
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

from dust import zoo
from tests.helpers import ROOT

NAME = "test_weights"
REAL = "timesformer_8x32_224_k400"  # an entry of the real list, for what runs in a process of its own


def archive(seed: int, size: int = 500_000) -> bytes:
    """A zip archive as torch.save writes one: incompressible, several chunks long; without the time of day."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as handle:
        handle.writestr(zipfile.ZipInfo("archive/data/0"), random.Random(seed).randbytes(size))
    return buffer.getvalue()


BODY, OTHER = archive(0), archive(1)
SHA = hashlib.sha256(BODY).hexdigest()


@dataclasses.dataclass
class Page:
    """How the server answers one path."""

    body: bytes = BODY
    etag: str = '"one"'
    last_modified: str = ""
    ranges: bool = True
    status: int = 200
    content_type: str = "application/octet-stream"
    announce: bool = True  # send Content-Length
    headers: dict = dataclasses.field(default_factory=dict)  # in the place of ours
    redirect: str = ""
    breaks: list = dataclasses.field(default_factory=list)  # bytes after which each answer in turn breaks off
    gate: threading.Event | None = None  # held before the body


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        site = self.server.site
        page = site.pages.get(self.path.partition("?")[0], Page(status=404, body=b"no"))
        site.requests.append(SimpleNamespace(method=self.command, path=self.path, headers=dict(self.headers)))
        site.arrived.set()
        body, status = page.body, page.status
        start = 0
        wanted = self.headers.get("Range")
        validators = (page.etag, page.last_modified)
        if wanted and page.ranges and self.headers.get("If-Range", page.etag) in validators:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            status = 206 if start < len(body) else 416
        self.send_response(302 if page.redirect else status)
        if page.redirect:
            self.send_header("Location", page.redirect)
            self.end_headers()
            return
        if page.etag:
            self.send_header("ETag", page.etag)
        if page.last_modified:
            self.send_header("Last-Modified", page.last_modified)
        if status == 206 and "Content-Range" not in page.headers:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        for name, value in page.headers.items():
            self.send_header(name, value)
        if page.announce and "Content-Length" not in page.headers:
            self.send_header("Content-Length", str(len(body) - start))
        self.send_header("Content-Type", page.content_type)
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if not with_body:
            return
        if page.gate is not None:
            page.gate.wait(20)
        stop = page.breaks.pop(0) if page.breaks else None
        self.wfile.write(body[start:stop])
        self.close_connection = True


def path():
    return zoo.cached_path(zoo.get(NAME))


def part():
    return path().with_name("weights.pth.part")


def nothing_arrived():
    return not path().exists() and not part().exists()


def start(arguments, home, **environment):
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "DUST_HOME": str(home), "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
