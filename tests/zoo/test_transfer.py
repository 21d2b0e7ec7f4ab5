"""Getting a file: whole, in pieces, from another place, or not at all."""

import dataclasses
import json
import threading
from types import SimpleNamespace

import pytest

from dust import zoo
from dust.utils.errors import DustError
from dust.zoo import transfer
from tests.zoo.web import BODY, NAME, OTHER, SHA, Page, nothing_arrived, part, path


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


@pytest.mark.parametrize("place", ["ftp://127.0.0.1:9/weights.pth", "file:///etc/hostname"])
def test_redirect_to_anything_but_the_web_is_refused(add, site, place):
    add(Page(redirect=place))
    with pytest.raises(DustError, match="only http and https|Redirection to url 'file.*not allowed|answers 302"):
        zoo.download(NAME)
    assert nothing_arrived() and len(site.requests) == 1, "nor is it tried again"


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


@pytest.mark.parametrize("place", ["http://[::1/w.pth", "http://127.0.0.1:99999999/w.pth", "ftp://[x", "gopher://h/w"])
def test_redirect_to_no_address_is_a_clear_error(add, place):
    add(Page(redirect=place))
    with pytest.raises(DustError, match="could not download"):
        zoo.download(NAME)
    assert nothing_arrived()


@pytest.mark.parametrize("number", ["9" * 5000, "\u00b2", "-5", "1e9", "0x10"])
@pytest.mark.parametrize("header", ["Content-Length", "Content-Range"])
def test_an_absurd_number_in_a_header_is_a_clear_error(add, header, number):
    ranged = header == "Content-Range"
    value = f"bytes {number}-{number}/{number}" if ranged else number
    add(Page(headers={header: value}, breaks=[200_000] if ranged else []))
    with pytest.raises(DustError, match="could not download"):
        zoo.download(NAME)
    assert not path().exists()


def test_an_endless_answer_is_cut_off_at_the_known_size(add, monkeypatch):
    sizes = []
    discard = transfer.discard
    monkeypatch.setattr(transfer, "discard", lambda part: sizes.append(transfer._size(part)) or discard(part))
    add(Page(announce=False, body=BODY + bytes(30 << 20)), sha256=SHA, size=len(BODY))
    with pytest.raises(DustError, match=f"at most {len(BODY):,}"):
        zoo.download(NAME)
    assert nothing_arrived() and max(sizes) <= len(BODY)


def test_what_nobody_knows_the_size_of_ends_too(add, monkeypatch):
    monkeypatch.setattr("dust.zoo.cache.MOST", 100_000)
    add(Page(announce=False))
    with pytest.raises(DustError, match="at most 100,000"):
        zoo.download(NAME)
    assert nothing_arrived()


@pytest.mark.parametrize("meta", ["[" * 100_000, '{"url": 1}', "[]", "9" * 5000])
def test_an_absurd_description_of_a_part_file_is_not_used(add, home, meta):
    add()
    (home / "zoo").mkdir(parents=True)
    part().write_bytes(OTHER[:1000])
    part().with_name(part().name + ".json").write_text(meta)
    assert zoo.download(NAME).read_bytes() == BODY
