"""A server in this process, and a client for it that is made of Python's own library."""

import contextlib
import http.client
import json
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest


@contextlib.contextmanager
def serving(model, *, limits=None, token="", loopback=True, names=(), **options):
    """Serve a model while the context lasts; gives ``port`` and ``service``."""
    for module in ("fastapi", "uvicorn", "python_multipart", "websockets", "prometheus_client"):
        pytest.importorskip(module)
    from dust.deploy.serve.app import build_app, build_server
    from dust.deploy.serve.guard import Guard
    from dust.deploy.serve.service import Service

    service = Service(model, limits, **options)
    server = build_server(build_app(service, Guard(loopback, token, names)))
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as ear:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [ear]})
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive())
            yield SimpleNamespace(port=ear.getsockname()[1], service=service, folder=Path(service._folder))
        finally:
            server.should_exit = True
            thread.join(60)
    assert not Path(service._folder).exists(), "uploads are removed at the end"


def until(condition, seconds=60):
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def call(port, method, path, body=None, headers=None):
    """(status, headers in lower case, the body's json or else its text)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read().decode()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, found, json.loads(text) if "json" in found.get("content-type", "") else text


def form(*files, boundary="limit", **fields):
    """(body, headers) of a form: files are (name, bytes)."""
    lines = []
    for name, data in files:
        head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: video/mp4\r\n\r\n'
        lines.append(f"--{boundary}\r\n{head}".encode() + data + b"\r\n")
    for name, value in fields.items():
        lines.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    body = b"".join(lines) + f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def send(port, *files, query="", headers=None, **fields):
    """Ask /predict about files, (name, bytes), or paths."""
    named = [one if isinstance(one, tuple) else (Path(one).name, Path(one).read_bytes()) for one in files]
    body, own = form(*named, **fields)
    return call(port, "POST", f"/predict{query}", body, {**own, **(headers or {})})
