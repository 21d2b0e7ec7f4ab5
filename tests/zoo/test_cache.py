"""What is accepted, remembered and refused."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import struct
import threading
from types import SimpleNamespace

import pytest

from dust import zoo
from dust.utils.errors import DustError
from dust.zoo import cache, hashes, transfer
from tests.zoo.web import BODY, NAME, OTHER, REAL, SHA, Page, nothing_arrived, part, path, start


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
    with pytest.raises(DustError, match=r"not downloaded yet.*download test_weights"):
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
