"""A run on shards is the run on the files that were packed, bit for bit."""

import shutil

import pytest

from dust.cli.main import main
from dust.convert.shards import pack
from dust.datasets.loader import construct_loader
from dust.decode.members import member_of
from dust.engine.run_dir import RunDir
from dust.engine.test import run_stage
from dust.launch.signals import Interrupted
from dust.utils.errors import ConfigError, DataError
from tests.datasets.clip_files import write_clip
from tests.helpers import csv_dicts
from tests.runs import RICH, StopAfter, assert_same_run, train


@pytest.fixture(scope="module")
def packed(clips, tmp_path_factory):
    """Shards of the tiny clips, one of which is damaged: of the folder ``loose`` beside them."""
    root = tmp_path_factory.mktemp("shards")
    shutil.copytree(clips, root / "loose")
    whole = (root / "loose" / "clip_3.mp4").read_bytes()
    (root / "loose" / "clip_3.mp4").write_bytes(whole[: len(whole) // 2])
    pack(root / "loose", root / "packed", shard_bytes=20_000)
    assert len(list((root / "packed").glob("train-*.tar"))) > 1
    return root / "packed"


def loaded(run):
    lines = (run / "bad_clips.csv").read_text().splitlines()
    return [line.split(",")[1] for line in lines]


@pytest.mark.slow
def test_losses_weights_and_answers_are_those_of_the_files(tiny, packed, tmp_path):
    settings = {**RICH, "SOLVER__MAX_EPOCH": 2, "DATA__MAX_BAD_FRACTION": 0.5}
    runs = {
        name: tiny(name, DATA__PATH_TO_DATA_DIR=str(packed.parent / name), **settings) for name in ("loose", "packed")
    }
    assert_same_run(*[train(cfg) for cfg in runs.values()])
    assert loaded(tmp_path / "loose") == loaded(tmp_path / "packed") and "clip_3.mp4" in loaded(tmp_path / "packed")
    tables, figures = [], []
    for cfg in runs.values():
        figures.append(run_stage(cfg, RunDir(cfg.OUTPUT_DIR)))
        tables.append(csv_dicts(RunDir(cfg.OUTPUT_DIR).results / "predictions.csv"))
    assert figures[0] == figures[1] and len(tables[0]) == 4
    paths = [[row.pop("path") for row in table] for table in tables]
    assert tables[0] == tables[1] and all(map(member_of, paths[1])) and not any(map(member_of, paths[0]))
    # dust predict asks about the members of a list, and of one by its path
    answers = []
    for name, words in (("loose", [str(packed.parent / "loose" / "test.csv")]), ("packed", [str(packed / "test.csv")]),
                        ("one", [paths[1][0]])):  # fmt: skip
        assert (
            main(["predict", str(tmp_path / "loose"), *words, "-o", str(tmp_path / f"p_{name}"), "--device", "cpu"])
            == 0
        )
        answers.append([row["prob_dark"] for row in csv_dicts(tmp_path / f"p_{name}" / "predictions.csv")])
    assert answers[0] == answers[1] and answers[2] == answers[1][:1]


def test_a_run_on_blocks_of_shards_goes_on_where_it_was_cut(tiny, packed, monkeypatch):
    settings = {
        "DATA__PATH_TO_DATA_DIR": str(packed),
        "DATA__FORMAT": "shards",
        "DATA__MAX_BAD_FRACTION": 0.5,
        "DATA_LOADER__SAMPLER": "blocks",
        "DATA_LOADER__BLOCK_CLIPS": 2,
        "DATA_LOADER__BLOCKS_MIXED": 2,
        "SOLVER__MAX_EPOCH": 2,
    }
    whole = train(tiny("whole", **settings))
    cfg = tiny("cut", **settings, DATA_LOADER__NUM_WORKERS=2)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        StopAfter(patch, 4)
        train(cfg)
    assert_same_run(train(cfg), whole)


def test_a_background_in_blocks_of_shards_is_that_of_the_files(tiny, tmp_path):
    """Its clips are named by their paths, which are others; what is drawn and seen is the same."""
    loose, seen = tmp_path / "loose", []
    loose.mkdir()
    rows = [
        f"v{number}.mp4,{label},{start},{start + 0.4}"
        for number in range(3)
        for label, start in (("a", 0.2), ("b", 1.2))
    ]
    for number in range(3):
        write_clip(loose / f"v{number}.mp4", 60)
    (loose / "train.csv").write_text("\n".join(["path,label,start,end", *rows]))
    pack(loose, tmp_path / "packed", shard_bytes=6000)
    settings = {"DATA__BACKGROUND": "nothing", "DATA__BACKGROUND_MIN_LENGTH": 0.2, "MODEL__NUM_CLASSES": 3}
    blocks = {"DATA_LOADER__SAMPLER": "blocks", "DATA_LOADER__BLOCK_CLIPS": 2, "DATA_LOADER__BLOCKS_MIXED": 2}
    for name in ("loose", "packed"):
        loader = construct_loader(tiny(DATA__PATH_TO_DATA_DIR=str(tmp_path / name), **settings, **blocks), "train")
        clips = [(clip.label, clip.segment.part) for clip in loader.dataset.clips]
        seen.append((clips, [(batch["label"].tolist(), batch["inputs"]["video"].tolist()) for batch in loader]))
    assert seen[0] == seen[1] and [label for label, _ in seen[0][0]].count(2) == 6


def test_what_a_configuration_may_not_ask(tiny, packed, clips, tmp_path):
    with pytest.raises(DataError, match=r"there is no shards\.json"):
        train(tiny(DATA__FORMAT="shards"))
    with pytest.raises(DataError, match="in seconds there, and DATA.SEGMENT_UNIT is frames"):
        train(tiny(DATA__PATH_TO_DATA_DIR=str(packed), DATA__SEGMENT_UNIT="frames"))
    with pytest.raises(ConfigError, match="each clip once"):
        train(tiny(DATA_LOADER__SAMPLER="blocks", DATA__PATH_TO_DATA_DIR=[str(packed), str(clips)],
                   DATA__DATASET_WEIGHTS=[1, 1]))  # fmt: skip
    shutil.copytree(packed, tmp_path / "copy")
    (tmp_path / "copy" / "train-000000.tar").unlink()
    with pytest.raises(DataError, match=r"missing.*\n.*train-000000\.tar\["):
        train(tiny(DATA__PATH_TO_DATA_DIR=str(tmp_path / "copy")))
    (tmp_path / "copy" / "shards.json").write_text('{"version": 9}')
    with pytest.raises(DataError, match="version 1"):
        train(tiny(DATA__PATH_TO_DATA_DIR=str(tmp_path / "copy")))
