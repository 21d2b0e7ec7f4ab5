"""The zoo against a local web server that breaks, lies and changes its mind."""

import dataclasses
import errno
import hashlib
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from dust import zoo
from dust.utils.errors import DustError
from dust.zoo import cache, hashes, transfer
from tests.helpers import ROOT

NAME = "test_weights"
REAL = "timesformer_8x32_224_k400"


def archive(seed: int, size: int = 500_000) -> bytes:
    """A zip archive as torch.save writes one: incompressible, several chunks long."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as handle:
        handle.writestr("archive/data/0", random.Random(seed).randbytes(size))
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
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if page.announce:
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


def path():
    return zoo.cached_path(zoo.get(NAME))


def part():
    return path().with_name("weights.pth.part")


def nothing_arrived():
    return not path().exists() and not part().exists()


# ---- getting a file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"sha256": SHA, "size": len(BODY)},
        {"sha256_prefix": SHA[:8], "size": len(BODY) - 90, "size_tolerance": 100},
        {},
    ],
)
def test_full_download(add, site, home, fields):
    add(**fields)
    assert zoo.resolve(f"zoo://{NAME}") == str(path()) == str(home / "zoo" / "weights.pth")
    assert path().read_bytes() == BODY
    assert not part().exists() and not (home / "zoo" / "weights.pth.part.json").exists()
    assert zoo.verify(NAME) == SHA
    zoo.download(NAME)
    assert len(site.requests) == 1, "a cached file is not fetched again"


def test_resolve_leaves_paths_alone(tmp_path):
    for text in ("", "weights.pth", str(tmp_path), "https://host/x.pth", "zoo/x"):
        assert zoo.resolve(text) == text


def test_unknown_name_lists_near_misses():
    with pytest.raises(DustError, match=r"'timesformer_8x32_k400'.*timesformer_8x32_224_k400"):
        zoo.resolve("zoo://timesformer_8x32_k400")


def test_redirect_is_followed(add, site):
    add(Page(redirect="/real.pth"))
    site.pages["/real.pth"] = Page()
    assert zoo.download(NAME).read_bytes() == BODY


def test_redirect_from_https_to_http_is_refused():
    handler = transfer._SafeRedirects()
    secure = SimpleNamespace(full_url="https://host/a")
    with pytest.raises(transfer.Refused, match="not secure"):
        handler.redirect_request(secure, None, 302, "", {}, "http://host/b")


def test_next_url_after_404(add, site):
    add(urls=(site.url + "/gone/weights.pth", site.url + "/weights.pth"))
    assert zoo.download(NAME).read_bytes() == BODY


def test_all_refusals_are_listed(add, site):
    add(Page(content_type="text/html; charset=utf-8"), urls=(site.url + "/gone.pth", site.url + "/weights.pth"))
    with pytest.raises(DustError, match=r"(?s)/gone\.pth: .*404.*/weights\.pth: .*a page \(text/html\)"):
        zoo.download(NAME)


def test_server_error_is_tried_again_but_not_for_ever(add, site):
    add(Page(status=503))
    with pytest.raises(DustError, match="503"):
        zoo.download(NAME)
    assert len(site.requests) == 1 + transfer.RETRIES


def test_no_connection_is_a_clear_error(add, site):
    add(urls=("http://127.0.0.1:9/weights.pth",))
    with pytest.raises(DustError, match=r"(?s)no connection.*put the file by hand at .*weights\.pth"):
        zoo.download(NAME)


def test_mirror_is_the_only_place_asked(add, site, monkeypatch):
    add(urls=(site.url + "/elsewhere/weights.pth",))
    monkeypatch.setenv("DUST_ZOO_MIRROR", site.url + "/")
    assert zoo.download(NAME).read_bytes() == BODY
    del site.pages["/weights.pth"]
    with pytest.raises(DustError, match=r"(?s)404.*DUST_ZOO_MIRROR is set"):
        zoo.download(NAME, force=True)
    assert {request.path for request in site.requests} == {"/weights.pth"}
    assert path().read_bytes() == BODY, "a failed --force keeps the old file"


# ---- broken transfers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [Page(), Page(etag='W/"weak"', last_modified="Thu, 27 May 2021 22:03:04 GMT")])
def test_broken_transfer_goes_on_where_it_stopped(add, site, page):
    add(dataclasses.replace(page, breaks=[200_000, 300_000]), sha256=SHA)
    assert zoo.download(NAME).read_bytes() == BODY
    starts = [request.headers.get("Range") for request in site.requests]
    assert starts == [None, "bytes=200000-", "bytes=300000-"]
    assert {request.headers.get("If-Range") for request in site.requests[1:]} == {page.last_modified or page.etag}


def test_server_that_falls_silent(add, site, monkeypatch):
    monkeypatch.setattr(transfer, "TIMEOUT_S", 0.2)
    page = add(Page(gate=threading.Event(), announce=True))
    with pytest.raises(DustError, match="the connection broke: TimeoutError"):
        zoo.download(NAME)
    page.gate.set()
    assert zoo.download(NAME).read_bytes() == BODY


def test_next_run_goes_on_from_the_part_file(add, site):
    page = add(Page(breaks=[150_000] * (2 + transfer.RETRIES)))
    with pytest.raises(DustError, match=r"150,000 of [\d,]+ bytes; what arrived is kept"):
        zoo.download(NAME)
    assert part().stat().st_size == 150_000
    page.breaks.clear()
    site.requests.clear()
    assert zoo.download(NAME).read_bytes() == BODY
    assert [request.headers.get("Range") for request in site.requests] == ["bytes=150000-"]


def test_file_that_changed_meanwhile_comes_whole(add):
    page = add(Page(breaks=[150_000] * (2 + transfer.RETRIES)))
    with pytest.raises(DustError):
        zoo.download(NAME)
    page.body, page.etag = OTHER, '"two"'
    page.breaks.clear()
    assert zoo.download(NAME).read_bytes() == OTHER


@pytest.mark.parametrize("page", [Page(ranges=False), Page(etag="")])
def test_server_that_cannot_continue_starts_again(add, site, page):
    add(dataclasses.replace(page, breaks=[200_000]))
    assert zoo.download(NAME).read_bytes() == BODY
    assert len(site.requests) == 2


def test_server_that_always_breaks_is_given_up(add, site):
    add(Page(ranges=False, breaks=[100_000] * 20))
    with pytest.raises(DustError, match="broke after 100,000"):
        zoo.download(NAME)
    assert len(site.requests) <= 2 + transfer.RETRIES


def test_complete_part_file_needs_no_request(add, site, home):
    add(sha256=SHA)
    (home / "zoo").mkdir(parents=True)
    part().write_bytes(BODY)
    meta = {"url": zoo.get(NAME).urls[0], "validator": '"one"', "total": len(BODY)}
    part().with_name("weights.pth.part.json").write_text(json.dumps(meta))
    assert zoo.download(NAME).read_bytes() == BODY
    assert not site.requests


def test_416_starts_again(add, site, home):
    add(Page(body=BODY), sha256=SHA)
    (home / "zoo").mkdir(parents=True)
    part().write_bytes(BODY + b"too long")
    meta = {"url": zoo.get(NAME).urls[0], "validator": '"one"', "total": None}
    part().with_name("weights.pth.part.json").write_text(json.dumps(meta))
    assert zoo.download(NAME).read_bytes() == BODY


def test_part_file_of_unknown_origin_is_not_used(add, home):
    add()
    (home / "zoo").mkdir(parents=True)
    part().write_bytes(OTHER[:1000])
    assert zoo.download(NAME).read_bytes() == BODY


def test_cut_off_archive_without_announced_length_is_refused(add):
    add(Page(announce=False, body=BODY[:-1000]))
    with pytest.raises(DustError, match="cut off"):
        zoo.download(NAME)
    assert nothing_arrived()


# ---- what is not the file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"sha256": "0" * 64}, {"sha256_prefix": "00000000"}])
def test_wrong_hash_is_removed(add, home, fields):
    add(**fields)
    with pytest.raises(DustError, match=rf"was removed: its sha256 is {SHA}.*00000000"):
        zoo.download(NAME)
    assert nothing_arrived()
    assert not (home / "zoo_hashes.json").exists()


@pytest.mark.parametrize(
    "page",
    [
        Page(content_type="text/html", body=b"<html>quota exceeded</html>"),
        Page(body=b"<!DOCTYPE html><p>Sign in"),
        Page(body=b'\n {"error": "not found"}'),
        Page(body=b"<?xml version='1.0'?><Error>AccessDenied</Error>"),
        Page(body=b"version https://git-lfs.github.com/spec/v1\n"),
    ],
)
def test_page_in_place_of_weights_is_refused(add, page):
    add(page)
    with pytest.raises(DustError, match=r"it gives (a page \(text/html\)|no file of weights)"):
        zoo.download(NAME)
    assert nothing_arrived()


@pytest.mark.parametrize("announce", [True, False])
def test_wrong_size_is_refused(add, announce):
    add(Page(announce=announce), size=len(BODY) + 5, size_tolerance=4)
    with pytest.raises(DustError, match=rf"it has {len(BODY):,} bytes, and the zoo's list says about"):
        zoo.download(NAME)
    assert nothing_arrived()


def test_formats():
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    assert cache.format_of(struct.pack("<Q", len(header)) + header) == "safetensors"
    assert cache.format_of(BODY) == "zip"
    assert cache.format_of(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.") == "pickle"
    assert cache.format_of(b"") == ""


def test_safetensors_that_is_cut_off(add):
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    whole = struct.pack("<Q", len(header)) + header + bytes(8)
    page = add(Page(body=whole[:-1]))
    with pytest.raises(DustError, match="cut off"):
        zoo.download(NAME)
    page.body = whole
    assert zoo.download(NAME).read_bytes() == whole


# ---- trust on first use, and the cache ---------------------------------------------------------------------------


def test_first_use_is_recorded_and_a_change_refused(add, site, home):
    page = add()
    zoo.download(NAME)
    records = json.loads((home / "zoo_hashes.json").read_text())
    assert records[NAME]["sha256"] == SHA and records[NAME]["size"] == len(BODY)
    assert records[NAME]["source"] == site.url + "/weights.pth?dl=1"
    page.body, page.etag = OTHER, '"two"'
    with pytest.raises(DustError, match=rf"was removed: .*{SHA} was recorded on first use"):
        zoo.download(NAME, force=True)
    assert json.loads((home / "zoo_hashes.json").read_text()) == records
    assert path().read_bytes() == BODY and not part().exists()


def test_project_list_comes_before_the_record(add, home):
    page = add()
    zoo.download(NAME)
    page.body, page.etag = OTHER, '"two"'
    add(page, sha256=hashlib.sha256(OTHER).hexdigest())
    with pytest.raises(DustError, match="the zoo's list says"):
        zoo.download(NAME)  # what lies in the cache is not what the list now names
    assert zoo.download(NAME, force=True).read_bytes() == OTHER


def test_damaged_record_file_is_an_error(add, home):
    add()
    home.mkdir()
    (home / "zoo_hashes.json").write_text('{"x": ')
    with pytest.raises(DustError, match=r"zoo_hashes\.json"):
        zoo.download(NAME)


@pytest.mark.parametrize("sha256", [SHA, ""])
def test_verify_finds_a_corrupted_file_that_stat_does_not_show(add, sha256):
    add(sha256=sha256)
    zoo.download(NAME)
    stat = path().stat()
    damaged = bytearray(BODY)
    damaged[len(BODY) // 2] ^= 1
    path().write_bytes(damaged)
    os.utime(path(), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    zoo.download(NAME)  # the memo of size and mtime is only a shortcut
    with pytest.raises(DustError, match=r"cached file .*weights\.pth is not 'test_weights'.*--force"):
        zoo.verify(NAME)
    os.utime(path())
    with pytest.raises(DustError, match="--force"):
        zoo.download(NAME)
    assert zoo.download(NAME, force=True).read_bytes() == BODY


def test_file_put_by_hand_is_checked_and_recorded(add, site, home):
    add()
    (home / "zoo").mkdir(parents=True)
    path().write_bytes(BODY)
    assert zoo.download(NAME) == path()
    assert not site.requests
    assert json.loads((home / "zoo_hashes.json").read_text())[NAME]["sha256"] == SHA


def test_verify_of_what_is_not_there(add):
    add()
    with pytest.raises(DustError, match=r"not at hand.*download test_weights"):
        zoo.verify(NAME)


def test_read_only_cache_serves(add, home, monkeypatch):
    add()
    zoo.download(NAME)

    def refuse(*args):
        raise AssertionError("nothing may be written")

    monkeypatch.setattr(hashes, "write_json", refuse)
    monkeypatch.setattr(hashes, "locked", refuse)
    assert zoo.download(NAME) == path()
    assert zoo.verify(NAME) == SHA


# ---- the disk ----------------------------------------------------------------------------------------------------


def test_no_room_is_seen_before_the_transfer(add, monkeypatch):
    add()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(DustError, match=r"no room .*1,000 free.*DUST_HOME"):
        zoo.download(NAME)
    assert nothing_arrived()


def test_disk_that_fills_up_meanwhile(add, monkeypatch):
    add()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(transfer.os, "fsync", full)
        with pytest.raises(DustError, match=r"cannot write .*No space left.*DUST_HOME"):
            zoo.download(NAME)
    assert zoo.download(NAME).read_bytes() == BODY


def test_home_that_is_a_file(add, home):
    add()
    home.write_text("")
    with pytest.raises(DustError, match=r"cannot write .*DUST_HOME"):
        zoo.download(NAME)


def test_records_of_many_writers_are_all_kept(home):
    home.mkdir()
    entries = [dataclasses.replace(zoo.get(REAL), name=f"weights_{i}") for i in range(16)]
    threads = [threading.Thread(target=hashes.record_first_use, args=(entry, SHA, 1, "test")) for entry in entries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert set(json.loads((home / "zoo_hashes.json").read_text())) == {entry.name for entry in entries}
    with pytest.raises(DustError, match="recorded on first use"):
        hashes.record_first_use(entries[0], "0" * 64, 1, "test")
    assert [file.name for file in home.iterdir() if file.suffix == ".tmp"] == []


# ---- processes ---------------------------------------------------------------------------------------------------


def start(arguments, home, **environment):
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "DUST_HOME": str(home), "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_share_one_download(site, home):
    entry = zoo.get(REAL)
    gate = threading.Event()
    site.pages[f"/{entry.filename}"] = Page(gate=gate)
    command = ["tools/zoo.py", "download", REAL]
    first = start(command, home, DUST_ZOO_MIRROR=site.url)
    try:
        assert site.arrived.wait(20)
        second = start(command, home, DUST_ZOO_MIRROR=site.url)
        assert "another process" in second.stderr.readline()
        gate.set()
        outputs = [process.communicate(timeout=20) for process in (first, second)]
    finally:
        gate.set()
        for process in (first, second):
            process.kill()
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert {out.strip() for out, _ in outputs} == {str(zoo.cached_path(entry))}
    assert len(site.requests) == 1
    assert zoo.cached_path(entry).read_bytes() == BODY
    assert list(json.loads((home / "zoo_hashes.json").read_text())) == [REAL]


HUB = """
import sys
from dust import zoo
entry = zoo.Entry(name="twin", licence="CC0", data="none", key_map="timm_vit", source="x", frames=1, crop=8,
                  sha256=sys.argv[1], hub=zoo.HubFile("owner/repo", "pytorch_model.bin", "a" * 40))
zoo.ENTRIES["twin"] = entry
from dust.utils.errors import DustError
try:
    print(zoo.download("twin"))
except DustError as error:
    sys.exit(f"DustError: {error}")
"""


def hub(site, home, sha256, **environment):
    process = start(["-c", HUB, sha256], home, HF_ENDPOINT=site.url, HF_HOME=str(home / "hf"), **environment)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_hugging_face_file(site, home):
    location = f"/owner/repo/resolve/{'a' * 40}/pytorch_model.bin"
    site.pages[location] = Page(etag=f'"{SHA}"')
    code, out, err = hub(site, home, SHA, HF_HUB_OFFLINE="0")
    assert code == 0, err
    assert out.strip() == str(home / "zoo" / "twin.bin")
    assert (home / "zoo" / "twin.bin").read_bytes() == BODY
    assert sorted(p.name for p in (home / "zoo").iterdir() if "part" in p.name) == []


@pytest.mark.parametrize(
    "sha256, environment, message",
    [
        (SHA, {"HF_HUB_OFFLINE": "1"}, "the Hugging Face hub does not give it"),
        ("0" * 64, {"HF_HUB_OFFLINE": "0"}, "was removed: its sha256 is"),
    ],
)
def test_hugging_face_errors_are_clear(site, home, sha256, environment, message):
    site.pages[f"/owner/repo/resolve/{'a' * 40}/pytorch_model.bin"] = Page(etag=f'"{SHA}"')
    code, _, err = hub(site, home, sha256, **environment)
    assert code == 1 and "DustError: " in err and message in err, err
    assert "Traceback" not in err
    assert not (home / "zoo" / "twin.bin").exists()


def test_import_is_light():
    heavy = ("torch", "numpy", "huggingface_hub", "tqdm")
    code = f"import sys; import dust.zoo; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# ---- the list and the command line -------------------------------------------------------------------------------


def test_entries_are_well_formed():
    filenames = [entry.filename for entry in zoo.ENTRIES.values()]
    assert len(set(filenames)) == len(filenames), "two entries would share one cached file"
    for name, entry in zoo.ENTRIES.items():
        assert entry.name == name
        assert entry.urls or entry.hub
        assert all(url.startswith("https://") for url in entry.urls)
        assert all("dl=1" in url for url in entry.urls if "dropbox" in url)
        assert len(entry.sha256) in (0, 64) and len(entry.sha256_prefix) in (0, 8)
        assert entry.sha256_prefix in entry.filename
        assert entry.hub is None or len(entry.hub.revision) == 40, "a branch can move"


def test_published_numbers():
    accuracy = {name: (entry.top1, entry.top5) for name, entry in zoo.ENTRIES.items()}
    expected = {
        "8x32_224_k400": (77.9, 93.2),
        "16x16_448_k400": (79.6, 94.0),
        "96x4_224_k400": (80.6, 94.7),
        "8x32_224_k600": (79.1, 94.4),
        "16x16_448_k600": (81.8, 95.8),
        "96x4_224_k600": (82.2, 95.6),
        "8_224_ssv2": (59.1, 85.6),
        "16_448_ssv2": (61.8, 86.9),
        "64_224_ssv2": (62.0, 87.5),
        "8x32_224_howto100m": (56.8, None),
        "32x32_224_howto100m": (61.2, None),
        "64x32_224_howto100m": (62.2, None),
        "96x32_224_howto100m": (62.6, None),
    }
    assert {name: accuracy[f"timesformer_{name}"] for name in expected} == expected
    hr = zoo.get("timesformer_16_448_ssv2")
    assert (hr.frames, hr.rate, hr.crop, hr.classes, hr.filename) == (
        16,
        0,
        448,
        174,
        "TimeSformer_divST_16_448_SSv2.pyth",
    )
    assert "REVERSE_INPUT_CHANNEL True" in hr.options


def test_configs_exist():
    missing = {entry.config for entry in zoo.ENTRIES.values() if entry.config and not (ROOT / entry.config).is_file()}
    assert not missing


def test_model_zoo_is_not_stale():
    assert (ROOT / "MODEL_ZOO.md").read_text(encoding="utf-8") == zoo.markdown(), (
        "run `python tools/zoo.py table --write`"
    )


def test_command_line(site, home):
    def run(*arguments):
        process = start(["tools/zoo.py", *arguments], home, DUST_ZOO_MIRROR=site.url)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    site.pages[f"/{zoo.get(REAL).filename}"] = Page()
    code, out, err = run("download", "nonsense", f"zoo://{REAL}")
    assert code == 1 and "no weights named 'nonsense'" in err, "one failure does not stop the others"
    assert out.strip() == str(zoo.cached_path(zoo.get(REAL)))
    code, out, _ = run("list")
    lines = {line.split()[0]: line.split() for line in out.splitlines()}
    assert code == 0 and lines[REAL][-1] == "yes" and lines["deit_base_patch16_224.fb_in1k"][-1] == "no"
    code, out, _ = run("verify")
    assert (code, out) == (0, f"{SHA}  {REAL}\n")
    code, out, _ = run("table")
    assert code == 0 and out == zoo.markdown()
