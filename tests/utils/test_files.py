import hashlib
import os
import re

import pytest

from dust.utils import files
from dust.utils.errors import DataError
from dust.utils.files import (
    like_missing,
    natural_order,
    replacing,
    sha256_of_file,
    sha256_of_files,
    sha256_of_text,
    write_atomically,
    write_csv,
    write_text,
)
from tests.helpers import ROOT


def test_a_file_appears_whole_under_its_name(tmp_path):
    path = tmp_path / "a.bin"
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists() and temporary.parent == tmp_path
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


def test_writing_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.bin"):
        pass


def test_the_file_and_its_folder_are_synced_before_and_after_the_rename(tmp_path, monkeypatch):
    calls = []
    real = {"fsync": os.fsync, "replace": os.replace}
    monkeypatch.setattr(os, "fsync", lambda *a: (calls.append("fsync"), real["fsync"](*a)))
    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("replace"), real["replace"](*a)))
    write_atomically(tmp_path / "a", b"x")
    assert calls == ["fsync", "replace", "fsync"]
    calls.clear()
    write_atomically(tmp_path / "a", "y", durable=False)
    assert calls == ["replace"] and (tmp_path / "a").read_text() == "y"


def test_the_longest_names_fit(tmp_path):
    for name in ("n" * 255, "ä" * 127, "視" * 85):
        write_atomically(tmp_path / name, b"x")
    assert len(os.listdir(tmp_path)) == 3


def test_what_cannot_be_written_is_named(tmp_path):
    with pytest.raises(
        DataError, match=re.escape(str(tmp_path / "no" / "a.txt")) + ": cannot be written: No such file"
    ):
        write_text(tmp_path / "no" / "a.txt", "x")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_are_quoted_where_it_is_needed(tmp_path, end):
    write_csv(tmp_path / "a.csv", ("path", "label"), [("a, b.mp4", 1), ('say "x"', None)], line_end=end)
    lines = ["path,label", '"a, b.mp4",1', '"say ""x""",', ""]
    assert (tmp_path / "a.csv").read_bytes() == end.join(lines).encode()


def test_hashes(tmp_path):
    (tmp_path / "a").write_bytes(b"a" * 3_000_000)
    (tmp_path / "b").write_bytes(b"b")
    assert sha256_of_file(tmp_path / "a") == hashlib.sha256(b"a" * 3_000_000).hexdigest()
    assert sha256_of_files([tmp_path / "a", tmp_path / "b"]) == hashlib.sha256(b"a" * 3_000_000 + b"b").hexdigest()
    assert sha256_of_text("ä") == hashlib.sha256("ä".encode()).hexdigest()


def test_a_file_is_hashed_again_only_after_somebody_wrote_there(tmp_path, monkeypatch):
    path, opened = tmp_path / "a", []
    path.write_bytes(b"one")
    monkeypatch.setattr(files, "_feed", lambda file, digest, feed=files._feed: (opened.append(1), feed(file, digest)))
    monkeypatch.setattr(files, "_HASHES", {})

    def found():
        opened.clear()
        assert sha256_of_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
        return len(opened)

    now = path.stat().st_ctime_ns
    monkeypatch.setattr("time.time_ns", lambda: now)
    assert (found(), found()) == (1, 1), "what was written just now may be written again without a trace"
    monkeypatch.setattr("time.time_ns", lambda: now + 60_000_000_000)
    assert (found(), found()) == (1, 0)
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # until the clock has ticked
        path.write_bytes(b"two")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns and (found(), found()) == (1, 0)


def test_numbers_in_names_count_as_numbers():
    names = ["img_10.jpg", "img_2.jpg", "10.jpg", "a1b10", "a1b9", "img_02.jpg", "x", "²"]
    assert sorted(names, key=natural_order) == [
        "10.jpg", "a1b9", "a1b10", "img_2.jpg", "img_02.jpg", "img_10.jpg", "x", "²",
    ]  # fmt: skip
    assert sorted(["a" + "9" * 5000, "a1"], key=natural_order)[0] == "a1", "a name in a file of others may be long"


def test_there_is_one_atomic_write():
    """Whoever renames a file over another does it here; the others do what this file cannot, and say what."""
    others = {
        "dust/utils/features/writer.py": "rows that grew over several lives get their final name",
        "dust/deploy/export.py": "an exported model may be several files, which appear once they agree",
        "dust/zoo/cache.py": "a download that took several tries gets its name",
        "dust/convert/prepare.py": "of several that begin at once the first keeps its name, where links can say which",
    }
    files = (ROOT / "dust").rglob("*.py")
    found = {str(path.relative_to(ROOT)) for path in files if "os.replace(" in path.read_text("utf-8")}
    assert found == {"dust/utils/files.py", *others}


@pytest.mark.parametrize("special", ["pipe", "/dev/zero", "folder", "nul"])
def test_only_files_are_opened(tmp_path, special):
    path = {"/dev/zero": special, "nul": "a\0b"}.get(special, tmp_path / special)
    if special == "pipe":
        os.mkfifo(path)
    elif special == "folder":
        path.mkdir()
    for read in (files.open_file, files.read_bytes, files.sha256_of_file):
        with pytest.raises(OSError, match="not a file|null"):
            read(path)
    with pytest.raises(DataError, match="cannot be read: "):
        files.read_text(path)


def test_a_text_of_absurd_length_is_not_read(tmp_path):
    with open(tmp_path / "a.csv", "wb") as file:
        file.truncate(1 << 40)  # holes
    with pytest.raises(DataError, match="a.csv: cannot be read: it has more than .* bytes"):
        files.read_text(tmp_path / "a.csv")


def test_names_that_are_no_utf8_are_written_as_escapes(tmp_path):
    files.write_csv(tmp_path / "a.csv", ["id", "value"], [["b\udcff", 1.5], ["=1+1", -2], ["\x1b[2Jx\ny", None]])
    assert (tmp_path / "a.csv").read_text() == "id,value\nb\\udcff,1.5\n'=1+1,-2\n\\x1b[2Jx\\ny,\n"
    files.write_text(tmp_path / "a.txt", "b\udcff")
    assert (tmp_path / "a.txt").read_text() == "b\\udcff"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "names",
    [
        ["a/b", "a_b"],
        ["A", "a"],
        ["a/b", "a b", "a:b", "a_b", "c"],
        ["x" * 300 + "1", "x" * 300 + "2"],
        ["\u8996" * 200 + "1", "\u8996" * 200 + "2"],
        ["", "_", "b\udcff", ".."],
    ],
)
def test_each_name_has_a_file_of_its_own(tmp_path, names):
    stems = files.file_stems(names)
    for stem, name in zip(stems, names, strict=True):
        (tmp_path / f"{stem}.csv").write_text(name, errors="replace")
    assert len({stem.casefold() for stem in stems}) == len(os.listdir(tmp_path)) == len(names)


def test_a_name_is_readable_and_nobody_can_take_it():
    assert files.file_stems(["a/b", "c d"]) == ["a_b", "c_d"]
    stolen = files.file_stems(["a/b", "a_b"])[0]
    assert len(set(files.file_stems(["a/b", "a_b", stolen]))) == 3


def test_the_address_of_a_file_whose_name_is_no_text():
    assert files.plain_path("file:///tmp/\udcff%20b.mp4") == "/tmp/\udcff b.mp4"


def test_a_missing_file_that_is_there_under_a_like_name(tmp_path):
    """Lists from Windows and macOS: other slashes, other case, decomposed letters, a space at the end."""
    folder = tmp_path / "Videos"
    folder.mkdir()
    path = folder / "caf\u00e9 1.mp4"
    path.touch()
    for name in ("Videos\\caf\u00e9 1.mp4", "videos/cafe\u0301 1.MP4", "Videos/caf\u00e9 1.mp4 "):
        assert like_missing(str(tmp_path / name)) == f"; is {path} meant?"
    assert like_missing(str(folder / "cafe 1.mp4")) == like_missing("https://host/a.mp4") == ""
    assert "by /" in like_missing(str(tmp_path / "C:\\clips\\a.mp4"))
