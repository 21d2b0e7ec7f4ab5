"""Generated video and series: neither of them alone can tell the class, and both together do."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from dust.cli import gen_data
from dust.decode.reader import VideoReader
from dust.synthetic.fusion import SERIES_BITS, generate_dust, paired_series
from dust.utils.errors import DataError
from tests.helpers import contents, csv_dicts

KINDS = ("video", "series")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dust") / "out"
    assert generate_dust(out, samples=32, seed=3, frames=4) == {"train": 32, "val": 8, "test": 8}
    return out


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_input_occurs_with_both_bits_of_the_other(data, split):
    """So the best that any function of one modality can do is one of two."""
    table = csv_dicts(data / f"{split}.csv")
    assert list(table[0]) == ["id", "label", "video", "series"]
    assert len({row["id"] for row in table}) == len(table)
    assert set(Counter(row["label"] for row in table).values()) == {len(table) // 4}
    for modality, other in zip(KINDS, (1, 0), strict=True):
        labels = defaultdict(list)
        for row in table:
            labels[row[modality]].append(row["label"])
        assert len(labels) == len(table) // 2
        assert all(len({label.split("_")[other] for label in seen}) == len(seen) == 2 for seen in labels.values())
        best = sum(max(Counter(seen).values()) for seen in labels.values())
        assert best == len(table) // 2


def direction(path: Path) -> str:
    """The side to which a clip's texture moves: where the second frame, moved back, is the first again."""
    with VideoReader(path) as reader:
        first, second = (frame.astype(float) for frame in reader.frames([1, 2]))
    errors = {name: abs(np.roll(second, back, axis=1) - first).mean() for name, back in (("left", 2), ("right", -2))}
    return min(errors, key=errors.get)


def relation(path: Path) -> str:
    series = np.load(path)
    assert (series.shape, series.dtype) == ((3, 51), np.float32)
    return "together" if (series[0] * series[1]).sum() > 0 else "against"


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_label_is_the_bit_of_the_video_and_the_bit_of_the_series(data, split):
    for row in csv_dicts(data / f"{split}.csv"):
        assert row["label"] == f"{direction(data / row['video'])}_{relation(data / row['series'])}"


def test_splits_share_no_file(data):
    names = [
        {row[kind] for row in csv_dicts(data / f"{split}.csv")} for split in ("train", "val", "test") for kind in KINDS
    ]
    files = [*data.rglob("*.mp4"), *data.rglob("*.npy")]
    assert len(set.union(*names)) == sum(map(len, names)) == len(files)


def test_a_channel_alone_tells_nothing():
    """Means, powers, end points and neighbouring products of each channel: their difference between the two relations
    is within what chance allows. The product of the first two channels is far beyond it."""
    rng = np.random.RandomState(0)
    many = {bit: np.stack([paired_series(rng, sign, 51) for _ in range(4000)]) for bit, sign in SERIES_BITS.items()}

    def score(statistic) -> np.ndarray:
        a, b = (statistic(many[bit]) for bit in SERIES_BITS)
        return abs(a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) + b.var(0)) / len(a))

    for statistic in (
        lambda x: x.mean(-1),
        lambda x: (x**2).mean(-1),
        lambda x: x[..., 0],
        lambda x: x[..., -1],
        lambda x: (x[..., 1:] * x[..., :-1]).mean(-1),
        lambda x: (x**3).mean(-1),
    ):
        assert (score(statistic) < 4.5).all()
    assert score(lambda x: (x[:, 0] * x[:, 1]).mean(-1)) > 100
    assert score(lambda x: (x[:, :2] * x[:, 2:]).mean(-1)).max() < 4.5


def small(out: Path, **options) -> dict[str, int]:
    return generate_dust(out, **{"samples": 4, "size": 16, "frames": 2, "length": 8} | options)


def test_the_seed_decides(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        small(tmp_path / name, seed=seed)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert all(a[name] != c[name] for name in a if name.endswith(("mp4", "npy")))


def test_force_replaces_its_own_files_only(tmp_path):
    out = tmp_path / "out"
    small(out, samples=8)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        small(out)
    small(out, force=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert len(list((out / "videos").iterdir())) == 6


@pytest.mark.parametrize(
    "options", [{"samples": 0}, {"samples": 6}, {"size": 17}, {"size": 8}, {"frames": 1}, {"length": 7}]
)
def test_numbers_out_of_range_write_nothing(tmp_path, options):
    with pytest.raises(DataError):
        small(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_command_line(tmp_path, capsys):
    out = tmp_path / "o"
    arguments = ["dust", "--out", str(out), "--samples", "4", "--size", "16", "--frames", "2", "--length", "8"]
    assert gen_data.main(arguments) == 0
    printed = capsys.readouterr().out
    assert ": 4 train, 4 val, 4 test" in printed
    assert "configs/quickstart/dust_stage4.yaml DATA.PATH_TO_DATA_DIR " + str(out) in printed
    assert gen_data.main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert gen_data.main([*arguments, "--force"]) == 0
