import threading
from http.server import ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from dust import zoo
from dust.zoo import transfer
from tests.zoo.web import NAME, Handler, Page


@pytest.fixture
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    url = f"http://127.0.0.1:{server.server_address[1]}"
    server.site = SimpleNamespace(pages={}, requests=[], arrived=threading.Event(), url=url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server.site
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DUST_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DUST_ZOO_MIRROR", raising=False)
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    monkeypatch.setattr(transfer, "BACKOFF_S", 0.0)
    monkeypatch.setattr(transfer, "TIMEOUT_S", 5.0)
    return tmp_path / "home"


@pytest.fixture
def add(site, monkeypatch):
    """add(page, **fields): put ``page`` on the server and an entry for it in the zoo."""

    def put(page=None, **fields):
        site.pages["/weights.pth"] = page or Page()
        fields = {"urls": (site.url + "/weights.pth?dl=1",), **fields}
        entry = zoo.Entry(
            name=NAME, licence="CC0", data="none", key_map="timm_vit", source="x", frames=1, crop=8, **fields
        )
        monkeypatch.setitem(zoo.ENTRIES, NAME, entry)
        return site.pages["/weights.pth"]

    return put
