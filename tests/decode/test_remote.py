"""Shards with an address: what comes is what was packed, whatever the server does, or one sentence says why not."""

import multiprocessing
import os
import re
import time
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="needs dust-video[remote]")

from dust.convert.check import check_data
from dust.convert.lists import ListOptions, read_lists
from dust.convert.shards import pack
from dust.datasets.loader import construct_loader
from dust.datasets.manifest import long_list
from dust.decode import remote
from dust.decode.members import Member, member_of, open_bytes, spoilt
from dust.decode.reader import open_clip
from dust.decode.remote import RemoteError
from dust.utils.errors import ConfigError, DataError, VideoError
from tests.decode.shard_server import serving
from tests.runs import assert_same_run, train


@pytest.fixture(scope="module")
def packed(clips, tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    pack(clips, root / "d", shard_bytes=20_000)
    return root


@pytest.fixture
def site(packed, tmp_path, monkeypatch):
    monkeypatch.setenv("_DUST_SHARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSE_S", 0.001)
    remote.size_of.cache_clear()
    remote.mirror.cache_clear()
    with serving(packed) as found:
        yield found
    for name in os.listdir(packed / "d"):
        assert not name.endswith(".tmp")


def clips_of(root):
    return read_lists(root, ListOptions()).clips


def bytes_of(path):
    with open_bytes(path) as file:
        return file.read()


@pytest.mark.parametrize("long", [False, True], ids=["rows", "columns"])
def test_lists_and_clips_come_over_http(site, packed, monkeypatch, long):
    if long:
        monkeypatch.setattr(long_list, "LONG", 0)
    here, there = clips_of(str(packed / "d")), clips_of(f"{site.url}/d")
    assert {split: [(clip.id, clip.label) for clip in part] for split, part in there.items()} == {
        split: [(clip.id, clip.label) for clip in part] for split, part in here.items()
    }
    for one, other in zip(here["train"], there["train"], strict=True):
        assert other.path.startswith(site.url) and bytes_of(other.path) == bytes_of(one.path) and not spoilt(other.path)
        with open_clip(one.path) as a, open_clip(other.path) as b:
            assert (a.frames([0, 5, 11]) == b.frames([0, 5, 11])).all()
    asked = site.asked.total()
    assert all(bytes_of(clip.path) for clip in there["train"]) and site.asked.total() == asked, "the cache is not used"
    assert len([name for name in site.ranges if "train" in name]) == len(there["train"]), "one request for a clip"


def test_lists_are_asked_for_again_and_brought_only_when_they_changed(site, packed):
    clips_of(f"{site.url}/d")
    bodies = {key: count for key, count in site.asked.items() if key[0] == "GET"}
    remote.mirror.cache_clear()
    clips_of(f"{site.url}/d")
    assert {key: count for key, count in site.asked.items() if key[0] == "GET"} == bodies
    os.utime(packed / "d" / "val.csv")
    remote.mirror.cache_clear()
    clips_of(f"{site.url}/d")
    assert site.asked["GET", "d/val.csv"] == bodies["GET", "d/val.csv"] + 1


@pytest.mark.parametrize("fault", ["500", "503", "cut", "short", "long", "wrong"])
def test_what_fails_for_the_moment_is_tried_again(site, packed, fault):
    clip, right = clips_of(f"{site.url}/d")["train"][3], clips_of(str(packed / "d"))["train"][3]
    site.fail("tar", fault, times=3, ranges=True)
    assert bytes_of(clip.path) == bytes_of(right.path)
    assert len([name for name in site.ranges if name.endswith("tar")]) == 4


@pytest.mark.parametrize("fault", ["500", "cut"])
def test_lists_too(site, fault):
    for method in ("HEAD", "GET"):
        site.fail("train.csv", fault, times=2, method=method)
    assert len(clips_of(f"{site.url}/d")["train"]) == 10


@pytest.mark.parametrize(
    ("fault", "options", "said"),
    [
        ("500", {}, r"cannot be fetched, 6 tries failed; the last: 500"),
        ("cut", {}, "cannot be fetched, 6 tries failed"),
        ("short", {}, r"bytes came of"),
        ("403", {}, "the server refuses it: 403"),
        ("404", {}, "is not there"),
        ("no ranges", {"ranges": True}, "gives whole files only"),
        ("no parts", {"method": "HEAD"}, "gives whole files only"),
        ("short", {"method": "HEAD"}, "the shard is cut, or the list not its own"),
    ],
)
def test_what_does_not_end_is_an_error_of_the_run(site, fault, options, said):
    clip = max(clips_of(f"{site.url}/d")["train"], key=lambda one: member_of(one.path).end)
    remote.size_of.cache_clear()
    site.fail("tar", fault, times=-1, **options)
    if fault == "404":
        site.fail("tar", fault, times=-1, method="HEAD")
    asked = site.asked.total()
    with pytest.raises(RemoteError, match=said):
        open_clip(clip.path)
    assert site.asked.total() - asked <= 2 * remote.TRIES


def test_bytes_that_stay_wrong_are_damage(site):
    clip = clips_of(f"{site.url}/d")["train"][3]
    site.fail("tar", "wrong", times=-1)
    with pytest.raises(VideoError, match="SHA-256"):
        open_clip(clip.path)
    site.faults.clear()
    with open_clip(clip.path) as reader:
        assert len(reader) == 12
    report = check_data(f"{site.url}/d")
    assert report.files == 18 and not [one for one in report.findings if one.kind == "bad"]


def test_a_shard_that_is_longer_than_it_says(site, packed):
    """A size that nobody keeps: the answer that should follow is cut off, and tried again."""
    clip, right = clips_of(f"{site.url}/d")["train"][3], clips_of(str(packed / "d"))["train"][3]
    site.fail("tar", "size", times=2)
    assert bytes_of(clip.path) == bytes_of(right.path)


def test_the_cache_keeps_within_its_limit(site, tmp_path, monkeypatch):
    clips = [clip for part in clips_of(f"{site.url}/d").values() for clip in part]
    monkeypatch.setenv("_DUST_SHARD_CACHE_GB", "0.00002")  # 20 kB, five clips or so
    held = []
    for clip in clips:
        bytes_of(clip.path)
        files = [path for path in (tmp_path / "cache" / "clips").rglob("*") if path.is_file()]
        held.append(sum(path.stat().st_size for path in files))
    assert max(held) <= 20_000 and len(clips) == 18 and held[-1] > 8_000
    assert not list((tmp_path / "cache").rglob("*.tmp*"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_configuration_says_where_the_cache_is_and_what_it_may_hold(site, tiny, tmp_path, workers):
    settings = {
        "DATA__PATH_TO_DATA_DIR": f"{site.url}/d",
        "DATA__SHARD_CACHE": str(tmp_path / "mine"),
        "DATA__SHARD_CACHE_GB": 1.0 if workers else 0.000008,  # two clips or so
        "DATA_LOADER__NUM_WORKERS": workers,
    }
    read = [item["id"] for item in construct_loader(tiny(**settings), "val")]
    assert read == [clip.id for clip in clips_of(f"{site.url}/d")["val"]] and len(read) == 4
    kept = [path.stat().st_size for path in (tmp_path / "mine" / "clips").rglob("*") if path.is_file()]
    assert len(kept) == 4 if workers else 0 < sum(kept) <= 8000
    assert (tmp_path / "mine" / "lists").is_dir() and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("value", [0, -3, float("nan"), "much"])
def test_a_limit_that_is_no_size_is_refused(tiny, value):
    with pytest.raises(ConfigError, match=r"DATA\.SHARD_CACHE_GB"):
        tiny(DATA__SHARD_CACHE_GB=value)


def test_a_file_that_left_the_cache_while_it_was_opened_is_fetched_again(site, monkeypatch):
    clip = clips_of(f"{site.url}/d")["train"][0]
    bring, lost = remote.bring, []

    def lose(*args):
        path = bring(*args)
        if len(lost) < 2:
            lost.append(os.unlink(path))
        return path

    monkeypatch.setattr(remote, "bring", lose)
    assert len(bytes_of(clip.path)) == member_of(clip.path).end - member_of(clip.path).start and len(lost) == 2


def test_a_file_that_was_shortened_in_the_cache_is_fetched_again(site, packed, tmp_path):
    clip, right = clips_of(f"{site.url}/d")["train"][0], clips_of(str(packed / "d"))["train"][0]
    bytes_of(clip.path)
    for length in (100, 0):
        (kept,) = (path for path in (tmp_path / "cache" / "clips").rglob("*") if path.is_file())
        os.truncate(kept, length)
        assert bytes_of(clip.path) == bytes_of(right.path)


def test_processes_share_a_cache_that_is_far_too_small(site, packed, tmp_path, monkeypatch):
    monkeypatch.setenv("_DUST_SHARD_CACHE_GB", "0.000008")  # two clips or so
    there, here = clips_of(f"{site.url}/d")["train"], clips_of(str(packed / "d"))["train"]
    right = [bytes_of(clip.path) for clip in here]

    def read(seed):
        for number in np.random.RandomState(seed).randint(0, len(there), 40).tolist():
            assert bytes_of(there[number].path) == right[number]

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=read, args=(seed,)) for seed in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
        child.kill()
    assert [child.exitcode for child in children] == [0, 0, 0]
    monkeypatch.setattr(remote, "bring", lambda *_: str(tmp_path / "gone"))
    with pytest.raises(RemoteError, match="make it larger"):
        open_clip(there[0].path)


def test_what_another_process_still_writes_to_the_cache_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("_DUST_SHARD_CACHE", str(tmp_path))
    monkeypatch.setenv("_DUST_SHARD_CACHE_GB", "0.000001")
    folder = tmp_path / "clips" / "00"
    folder.mkdir(parents=True)
    ages = {".written.1.2.tmp": 60.0, ".left.1.2.tmp": 2 * remote.LEFT_OVER_S, "kept": 30.0, "newest": 0.0}
    for name, age in ages.items():
        (folder / name).write_bytes(bytes(900))
        os.utime(folder / name, (time.time() - age,) * 2)
    remote._make_room(folder / "newest", 10**9)
    assert {path.name for path in folder.iterdir()} == {".written.1.2.tmp", "newest"}


def test_a_cache_that_cannot_be_written_is_said(site, tmp_path, monkeypatch):
    clip = clips_of(f"{site.url}/d")["train"][0]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("_DUST_SHARD_CACHE", str(tmp_path / "file"))
    with pytest.raises(RemoteError, match=r"DATA\.SHARD_CACHE"):
        open_clip(clip.path)


def test_an_fsspec_that_hangs_in_workers_is_refused(site, monkeypatch):
    clip = clips_of(f"{site.url}/d")["train"][0]
    monkeypatch.setattr("fsspec.__version__", "2025.3.2")
    with pytest.raises(ConfigError, match=r"fsspec 2025\.3\.2 is too old"):
        open_clip(clip.path)


def test_a_part_behind_the_end_and_an_address_of_nobody(site):
    with pytest.raises(RemoteError, match="has .* bytes, and 99999999 are needed"):
        open_clip(Member(f"{site.url}/d/train-000000.tar", 512, 99_999_999, ".mp4").path)
    with pytest.raises(DataError, match="there is no shards.json"):
        read_lists(f"{site.url}/nothing", ListOptions())
    site.close()
    with pytest.raises(RemoteError, match="6 tries failed"):
        open_clip(Member(f"{site.url}/d/train-000000.tar", 512, 900, ".mp4").path)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_server_that_is_gone_ends_a_run_with_one_sentence(site, tiny, tmp_path, workers):
    site.fail("tar", "503", times=-1, ranges=True)
    settings = {
        "DATA__PATH_TO_DATA_DIR": f"{site.url}/d",
        "DATA__SHARD_CACHE": str(tmp_path / "cache"),
        "DATA_LOADER__NUM_WORKERS": workers,
    }
    with pytest.raises(DataError) as error:
        train(tiny(**settings))
    assert str(error.value).startswith(site.url) and "6 tries failed; the last: 503" in str(error.value)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)


@pytest.mark.slow
def test_a_training_over_http_is_the_one_from_disk(site, packed, tiny, tmp_path):
    """With workers, which are forked, and with faults."""
    settings = {
        "SOLVER__MAX_EPOCH": 1,
        "DATA_LOADER__NUM_WORKERS": 2,
        "DATA__SHARD_CACHE": str(tmp_path / "cache"),
    }
    site.fail("tar", "500", times=2, ranges=True)
    site.fail("tar", "cut", times=2, ranges=True)
    here = train(tiny("here", DATA__PATH_TO_DATA_DIR=str(packed / "d"), **settings))
    there = train(tiny("there", DATA__PATH_TO_DATA_DIR=f"{site.url}/d", **settings))
    assert_same_run(here, there)
    assert not site.faults[0][2] and not site.faults[1][2]


@pytest.fixture
def bucket(site, monkeypatch):
    """The same server as an object store: s3fs asks it by path, with HEAD and ranges. "s3://d" holds the shards."""
    s3fs = pytest.importorskip("s3fs", reason="needs dust-video[remote] with s3fs")
    for name, value in (("ACCESS_KEY_ID", "me"), ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", site.url)
    s3fs.S3FileSystem.clear_instance_cache()
    yield site
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("workers", [0, 1])
def test_shards_in_an_object_store(bucket, packed, tiny, tmp_path, workers):
    here, there = clips_of(str(packed / "d")), clips_of("s3://d")
    assert [clip.id for clip in there["train"]] == [clip.id for clip in here["train"]]
    for one, other in zip(here["train"], there["train"], strict=True):
        assert other.path.startswith("s3://d/train-") and bytes_of(other.path) == bytes_of(one.path)
    tars = Counter(method for method, name in bucket.asked.elements() if "train" in name and name.endswith(".tar"))
    assert tars["GET"] == len(there["train"]), "one request for a clip"
    settings = {"DATA__SHARD_CACHE": str(tmp_path / "cache"), "DATA_LOADER__NUM_WORKERS": workers}
    items = [
        list(construct_loader(tiny(**settings, DATA__PATH_TO_DATA_DIR=root), "val"))
        for root in (str(packed / "d"), "s3://d")
    ]
    for one, other in zip(*items, strict=True):
        assert one["id"] == other["id"] and (one["inputs"]["video"] == other["inputs"]["video"]).all()


@pytest.mark.parametrize("name, said", [("", "Unable to locate credentials"), ("x", "The config profile (x)")])
def test_an_object_store_without_credentials_is_said_at_once(bucket, monkeypatch, tmp_path, name, said):
    for key in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{key}")
    for key in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(f"AWS_{key}", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: pytest.fail("nothing changes by waiting"))
    if name:
        monkeypatch.setenv("AWS_PROFILE", name)
    with pytest.raises(RemoteError, match=rf"^s3://d/a\.tar: {re.escape(said)}.*AWS_PROFILE.*FSSPEC_S3_ANON"):
        remote.size_of("s3://d/a.tar")


@pytest.mark.parametrize("fault", ["500", "cut", "short", "wrong"])
def test_an_object_store_that_fails_for_the_moment(bucket, packed, fault):
    clip, right = clips_of("s3://d")["train"][3], clips_of(str(packed / "d"))["train"][3]
    bucket.fail("tar", fault, times=2)
    assert bytes_of(clip.path) == bytes_of(right.path) and not bucket.faults[0][2]


def test_an_object_store_that_refuses(bucket):
    clip = clips_of("s3://d")["train"][3]
    bucket.fail("tar", "403", times=-1)
    with pytest.raises(RemoteError, match=r"^s3://d/train-.*tar: may not be read: "):
        open_clip(clip.path)
    bucket.faults.clear()
    with pytest.raises(RemoteError, match=r"^s3://d/none\.tar: is not there$"):
        open_clip(Member("s3://d/none.tar", 512, 900, ".mp4").path)
    with pytest.raises(DataError, match="there is no shards.json"):
        read_lists("s3://nothing/here", ListOptions())
