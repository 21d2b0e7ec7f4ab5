"""Point tracks from YAML to figures: generated cameras of which one alone is not enough, and tracks of real clips."""

import pytest

from dust.analysis.tracks_ablation import ablate_views, best_of_size
from dust.config import load_config
from dust.engine import run_net
from dust.engine.run_dir import RunDir
from dust.streaming.tracks import run_stage as stream_tracks
from dust.synthetic.tracks import generate_tracks
from tests.helpers import ROOT, VIDEOS, metrics_of, needs_videos, tool

QUICKSTART = {name: ROOT / "configs" / "quickstart" / f"tracks_{name}.yaml" for name in ("transformer", "lstm")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracks") / "data"
    generate_tracks(folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def less_data(tmp_path_factory):
    """Four of the seven classes, so that fewer epochs are enough."""
    folder = tmp_path_factory.mktemp("less") / "data"
    generate_tracks(folder, classes=4, sequences=48, seed=1)
    return folder


def words(data, out, *more):
    return ["DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(out), *map(str, more)]


@pytest.mark.slow
def test_four_cameras_are_enough_and_one_is_not(less_data, tmp_path):
    four_are_enough("transformer", words(less_data, tmp_path, "MODEL.NUM_CLASSES", 4, "SOLVER.MAX_EPOCH", 20), tmp_path)


@pytest.mark.slow
@pytest.mark.quickstart
@pytest.mark.parametrize("name", QUICKSTART)
def test_four_cameras_are_enough_for_all_classes(data, tmp_path, name):
    four_are_enough(name, words(data, tmp_path), tmp_path)


def four_are_enough(name, overrides, tmp_path):
    assert run_net.main(["--cfg", str(QUICKSTART[name]), *overrides]) == 0
    found = metrics_of(tmp_path)
    assert found["top1_acc"] > 95 and found["weighted_f1"] > 95
    cfg, run = load_config(QUICKSTART[name], overrides), RunDir(tmp_path)
    table = ablate_views(cfg, run, [1, 4])
    assert best_of_size(table, 4)["top1_acc"] == found["top1_acc"]
    assert best_of_size(table, 1)["top1_acc"] < found["top1_acc"] - 15
    report = stream_tracks(cfg, run)
    assert report["metrics"]["frame_acc"] > 50, "windows over two clips are wrong about one of them"


@pytest.mark.slow
@pytest.mark.quickstart
def test_a_model_of_one_camera_is_worse(data, tmp_path):
    """Chance is 14 %. The best of single cameras, each trained by itself, lies at 40 to 55 %."""
    overrides = words(data, tmp_path, "TRACKS.VIEWS", "[0]")
    assert run_net.main(["--cfg", str(QUICKSTART["transformer"]), *overrides]) == 0
    assert metrics_of(tmp_path)["top1_acc"] < 80


@pytest.mark.slow
@needs_videos
def test_tracks_of_real_clips_train(tmp_path):
    clips = {"train": ["mma_demo", "iio_cockatoo"], "val": ["skv_bikes"], "test": ["mpy_chaplin"]}
    rows = ["video,sample,view,label,sequence,split,start,end"]
    for split, names in clips.items():
        for number, name in enumerate(names):
            for view, keys in enumerate(("g12", "g250")):
                video = VIDEOS / "k400like" / f"{name}_{keys}.mp4"
                if video.exists():
                    rows.append(f"{video},{name},{view},{'ab'[number]},{name},{split},0,60")
    (tmp_path / "videos.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "tracks"
    done = tool("make_tracks", tmp_path / "videos.csv", "--out", out, "--points", "128")
    assert done.returncode == 0, done.stderr
    assert f"wrote {len(rows) - 1} files" in done.stdout
    more = ["MODEL.NUM_CLASSES", 2, "TRACKS.VIEWS", "[0,1]", "TRACKS.NUM_POINTS", 128, "SOLVER.MAX_EPOCH", 1]
    more += ["SOLVER.WARMUP_EPOCHS", 0]
    for name, config in QUICKSTART.items():
        assert run_net.main(["--cfg", str(config), *words(out, tmp_path / name, *more)]) == 0
        assert metrics_of(tmp_path / name)["top1_acc"] in (0.0, 100.0), "one clip"
