"""Forms as they come in, cut anywhere."""

import asyncio

import pytest

from dust.deploy.serve.limits import Limits, Refused
from dust.deploy.serve.upload import receive, stored_name

pytest.importorskip("python_multipart")


def take(folder, body, *, pieces=7, headers=None, limits=None):
    from tests.deploy.serve.serving import form

    async def chunks():
        for start in range(0, len(body), pieces):
            yield body[start : start + pieces]

    kind = {"content-type": form()[1]["Content-Type"]}
    return asyncio.run(receive(headers or kind, chunks(), str(folder), limits or Limits()))


@pytest.mark.parametrize("pieces", [1, 2, 3, 50, 100_000])
def test_a_form_cut_anywhere(tmp_path, pieces):
    from tests.deploy.serve.serving import form

    data = bytes(range(256)) * 3 + b"\r\n--limi\r\n--"
    body, _ = form(("a b.mp4", data), ("a b.csv", b""), path="x/y.mp4")
    found = take(tmp_path, body, pieces=pieces)
    assert [name for name, _ in found.files] == ["a b.mp4", "a b.csv"] and found.fields == {"path": "x/y.mp4"}
    assert (tmp_path / "a_b.mp4").read_bytes() == data and (tmp_path / "a_b.csv").read_bytes() == b""


@pytest.mark.parametrize(
    ("name", "stored"),
    [("a.mp4", "a.mp4"), ("../../etc/passwd", "passwd"), ("C:\\x\\y.avi", "y.avi"), ("", "clip"), (".bashrc", "bashrc"),
     ("..", "clip"), ("walk_view_0.npz", "walk_view_0.npz"), ("a\0b/\n\x1b.mp4", "__.mp4"),
     ("-x;$(y).mp4", "-x___y_.mp4"),
     ("ü漢.mp4", "ü漢.mp4")],
)  # fmt: skip
def test_names_on_the_disk(name, stored):
    assert stored_name(name) == stored


def test_long_names_fit():
    assert len(stored_name("漢" * 500 + ".mp4" * 99).encode()) < 255
    assert len(stored_name("a." + "漢" * 500).encode()) < 255
    cameras = {stored_name("x" * 400 + f"_view_{number}.npz") for number in range(3)}
    assert len(cameras) == 3 and all(name.endswith(".npz") and "_view_" in name for name in cameras)


def test_more_than_is_taken(tmp_path):
    from tests.deploy.serve.serving import form

    body, _ = form(("a.mp4", b"x" * 300_000))
    with pytest.raises(Refused, match="more than 0.1 MB") as refused:
        take(tmp_path, body, pieces=65536, limits=Limits(max_mb=0.1))
    assert refused.value.status == 413
    with pytest.raises(Refused, match="more than 16 files"):
        take(tmp_path, form(*((f"{number}.npz", b"") for number in range(17)))[0])
    with pytest.raises(Refused, match="cannot be read|is unknown"):
        take(tmp_path, b"--limit\r\n" + b"X: y\r\n" * 99 + b"\r\n")


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    from tests.deploy.serve.serving import form

    (tmp_path / "gone").mkdir()
    body, _ = form(("a.mp4", b"x"))
    (tmp_path / "gone").rmdir()
    with pytest.raises(OSError):
        take(tmp_path / "gone", body)
