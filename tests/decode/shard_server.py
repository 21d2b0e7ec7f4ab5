"""A web server of a folder on this machine, that knows ranges and fails as told."""

import contextlib
import os
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, with_body):
        site = self.server.site
        name = self.path.lstrip("/")
        path = site.root / name
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        site.asked[self.command, name] += 1
        site.ranges += [name] * bool(match)
        fault = site.fault(name, self.command, match is not None)
        if fault in ("500", "403", "404", "503"):
            self.send_error(int(fault))
            return
        if not path.is_file():
            self.send_error(404)
            return
        body, status, extra = path.read_bytes(), 200, {}
        if match and fault != "no ranges":
            start, end = int(match[1]), int(match[2] or len(body) - 1) + 1
            extra["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
            body, status = body[start:end], 206
        if fault == "short":
            body = body[: len(body) // 2]
        elif fault == "long":
            body = body + bytes(100)
        elif fault == "wrong":
            body = bytes([body[0] ^ 1]) + body[1:]
        self.send_response(status)
        told = len(body) if fault != "size" else len(body) + 12_345
        for key, value in {"Content-Length": str(told), "ETag": f'"{path.stat().st_mtime_ns}"', **extra}.items():
            self.send_header(key, value)
        if fault == "no parts":
            self.send_header("Accept-Ranges", "none")
        self.end_headers()
        if with_body:
            with contextlib.suppress(OSError):
                self.wfile.write(body[: len(body) // 3] if fault == "cut" else body)
        if fault in ("cut", "size"):
            self.close_connection = True


class Site:
    """A running server: ``url``; ``asked`` counts (method, name); ``fail`` (name, fault, times) makes it fail."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked, self.ranges = root, Counter(), []
        self.faults: list[list] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.site = self
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def fail(self, pattern: str, fault: str, times: int = 1, method: str = "GET", ranges: bool | None = None) -> None:
        """Answer the next ``times`` requests of files whose name matches with a fault; -1 = for ever."""
        self.faults.append([re.compile(pattern), fault, times, method, ranges])

    def fault(self, name: str, method: str, ranged: bool) -> str:
        for one in self.faults:
            pattern, fault, times, of, ranges = one
            if pattern.search(name) and times and method == of and ranges in (None, ranged):
                one[2] -= 1
                return fault
        return ""

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@contextlib.contextmanager
def serving(root: str | os.PathLike):
    """A :class:`Site` of a folder, closed at the end."""
    site = Site(Path(root))
    try:
        yield site
    finally:
        site.close()
