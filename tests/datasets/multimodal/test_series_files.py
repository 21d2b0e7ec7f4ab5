"""Series in parquet and EDF files: the same numbers as in a csv, irregular and missing values, several rates."""

import datetime
import sys

import numpy as np
import pytest

from dust.convert.check import check_data
from dust.convert.duplicates import content_sha256
from dust.datasets.multimodal.series import SeriesRules, count_channels, read_series
from dust.utils.errors import ConfigError, DataError, SampleError

TIMES = np.array([0.0, 0.01, 0.025, 0.03, 0.041])  # irregular
VALUES = np.array([[1.5, np.nan, -2, 0.25, 8], [0, 1, 2, np.nan, 4]])


def frame(path, columns):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table(columns), path)
    return str(path)


def edf(path, signals, **options):
    """signals: (label, rate, values) of each."""
    edfio = pytest.importorskip("edfio")
    made = [
        edfio.EdfSignal(values, rate, label=label, physical_range=(-100, 100), physical_dimension="uV")
        for label, rate, values in signals
    ]
    edfio.Edf(made, **options).write(path)
    return str(path)


def test_parquet_is_as_the_csv_of_the_same_values(tmp_path):
    lines = [f"{t!r},{a!r},{b!r}" for t, a, b in zip(TIMES.tolist(), *VALUES.tolist(), strict=True)]
    (tmp_path / "x.csv").write_text("\n".join(["time,a,b", *lines]) + "\n")
    path = frame(tmp_path / "x.parquet", {"time": TIMES, "a": VALUES[0], "b": [0, 1, 2, None, 4]})
    assert count_channels(path) == 2
    for rules in (
        SeriesRules(num_channels=2, missing="mask"),
        SeriesRules(num_channels=2, missing="mask", rate=200.0),
        SeriesRules(num_channels=2, missing="mask", length=7, fit="resample"),
    ):
        made = [rules.prepare(rules.read(name), name) for name in (str(tmp_path / "x.csv"), path)]
        np.testing.assert_array_equal(*made)
    found = read_series(path, 2)
    np.testing.assert_array_equal(found.values, VALUES.astype(np.float32))
    np.testing.assert_array_equal(found.times, TIMES)
    np.testing.assert_array_equal(read_series(f"{path}#b", 1).values[0], found.values[1])
    assert content_sha256(f"{path}#b") != content_sha256(f"{path}#a") == content_sha256(f"{path}#a")


def test_timestamps_of_any_unit_are_seconds(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    begin = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.timezone.utc)
    stamps = [begin + datetime.timedelta(milliseconds=step) for step in (0, 20, 45)]
    for unit in ("ms", "us", "ns"):
        columns = {"Timestamp": arrow.array(stamps, arrow.timestamp(unit, "UTC")), "a": [True, False, True]}
        found = read_series(frame(tmp_path / f"{unit}.parquet", columns), 1)
        np.testing.assert_allclose(found.times - begin.timestamp(), [0, 0.02, 0.045], atol=1e-6)
        assert found.values.tolist() == [[1, 0, 1]]
    later = [datetime.timedelta(seconds=1), datetime.timedelta(seconds=0.5), datetime.timedelta(seconds=2)]
    path = frame(tmp_path / "t.parquet", {"t": arrow.array(later, arrow.duration("us")), "a": [1.0, 2.0, 3.0]})
    with pytest.raises(SampleError, match="go backwards: set SERIES.TIMES mend"):
        read_series(path, 1)
    assert read_series(path, 1, mend=True).times.tolist() == [0.5, 1, 2]


def test_what_a_parquet_file_may_not_be(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1nothing")
    cases = {
        str(tmp_path / "bad.parquet"): "not a parquet file, or damaged",
        frame(tmp_path / "a.parquet", {"a": ["x", "y"], "b": [1, 2]}): r"holds no numbers.*a: string",
        frame(
            tmp_path / "b.parquet", {"time": [1.0, None], "a": [1.0, 2.0], "b": [1.0, 2.0]}
        ): "times that are missing",
        frame(tmp_path / "c.parquet", {"time": [1.0], "t": [1.0]}): "more than one time column",
        frame(tmp_path / "d.parquet", {"a": arrow.array([], arrow.float64())}): "without rows",
        frame(
            tmp_path / "e.parquet", {"a": [1.0], "b": [1.0], "c": [1.0]}
        ): r"SERIES.NUM_CHANNELS 2.*file.parquet#a,b.*3: a, b, c",
        frame(tmp_path / "f.parquet", {"a": [1.0], "b": [2.0], "__index_level_0__": [0]}): "without a name",
        str(tmp_path / "e.parquet#a,z"): "no column or signal of that name.*'z' of a, b, c",
    }
    for path, says in cases.items():
        with pytest.raises(SampleError, match=says):
            read_series(path, 2)


def test_edf_signals_of_several_rates_are_on_the_fastest_times(tmp_path):
    fast, slow = np.sin(np.arange(40) / 5) * 90, np.arange(20) * 4.0
    path = edf(tmp_path / "x.edf", [("ECG", 20, fast), ("Resp", 10, slow), ("ECG2", 20, -fast)])
    found = read_series(path, 3)
    step = 200 / 65535  # of what the file stores
    assert found.times.tolist() == pytest.approx(np.arange(39) / 20)  # the slow one ends at 1.9 s
    np.testing.assert_allclose(found.values[0], fast[:39], atol=step)
    np.testing.assert_allclose(found.values[1], np.interp(np.arange(39) / 20, np.arange(20) / 10, slow), atol=step)
    alone = read_series(f"{path}#Resp", 1)
    np.testing.assert_allclose(alone.values, slow[None], atol=step)
    assert alone.times.tolist() == pytest.approx(np.arange(20) / 10)
    assert count_channels(path) == 3 and count_channels(f"{path}#ECG2,ECG") == 2
    np.testing.assert_allclose(read_series(f"{path}#ECG2,ECG", 2).values, [-fast, fast], atol=step)
    assert SeriesRules(num_channels=1, rate=5.0).prepare(alone, path).shape == (1, 10)


def in_pieces(path):
    """Make an EDF+C file of records of a second one in pieces (EDF+D): the last one begins ten seconds later."""
    data = path.read_bytes()
    count, header = int(data[252:256]), int(data[184:192])
    per = [int(data[256 + 216 * count + 8 * n :][:8]) * 2 for n in range(count)]
    data = bytearray(data.replace(b"EDF+C", b"EDF+D"))
    for start in range(header, len(data), sum(per)):
        last = start + sum(per) >= len(data)
        at = start + data[start : start + sum(per)].index(b"+")
        end = data.index(b"\x14", at)
        if last:  # +3 becomes +13: a zero byte of the padding is taken in
            word = b"+1" + bytes(data[at + 1 : end])
            stop = start + sum(per)
            data[at:stop] = (word + bytes(data[end:stop]))[: stop - at]
    path.write_bytes(data)


def test_a_recording_in_pieces_keeps_its_gap(tmp_path):
    edfio = pytest.importorskip("edfio")
    values, slow = np.arange(40) * 2.0, np.arange(8) * 5.0
    note = [edfio.EdfAnnotation(0.5, None, "here")]
    path = tmp_path / "x.edf"
    edf(path, [("a", 10, values), ("b", 2, slow)], annotations=note, data_record_duration=1)
    assert read_series(f"{path}#a", 1).times.tolist() == pytest.approx(np.arange(40) / 10)
    in_pieces(path)
    found = read_series(f"{path}#a", 1)
    times = [*np.arange(30) / 10, *(13 + np.arange(10) / 10)]
    assert found.times.tolist() == pytest.approx(times)
    np.testing.assert_allclose(found.values[0], values, atol=200 / 65535)
    with pytest.raises(SampleError, match="a gap of more than 5 median steps"):
        SeriesRules(num_channels=1, rate=10.0).prepare(found, str(path))
    both = read_series(str(path), 2)  # behind 2.5 s the slow one has no neighbour before the gap
    assert np.isnan(both.values[1][26:30]).all() and not np.isnan(both.values[0]).any()
    made = SeriesRules(num_channels=2, rate=10.0, missing="mask").prepare(both, str(path))
    assert np.isnan(made[0][31:130]).all() and not np.isnan(made[0][:30]).any()


def test_what_an_edf_file_may_not_be(tmp_path):
    path = tmp_path / "x.edf"
    edf(path, [("a", 10, np.zeros(20))])
    whole = path.read_bytes()
    for text in (b"", b"0" * 100, whole[:200], whole[:300], whole.replace(b"10      ", b"x       ")):
        path.write_bytes(text)
        with pytest.raises(SampleError):
            read_series(str(path), 1)
    path.write_bytes(whole[:-5])
    with pytest.raises(SampleError, match=r"cut off: copy it again \(1 of 2 records"):
        read_series(str(path), 1)
    path.write_bytes(whole)
    with pytest.raises(SampleError, match=r"SERIES.NUM_CHANNELS 2.*file.edf#a,b.*1: a"):
        read_series(str(path), 2)
    with pytest.raises(SampleError, match="missing|cannot be read|No such"):
        read_series(str(tmp_path / "none.edf"), 1)


def test_a_time_of_something_else_is_a_channel(tmp_path):
    (tmp_path / "x.csv").write_text("time,reaction_time,dates_eaten\n0,1,2\n1,2,3\n")
    assert read_series(str(tmp_path / "x.csv"), 2).values.tolist() == [[1, 2], [2, 3]]


@pytest.mark.parametrize(
    "name",
    [
        "time_ms",
        "Timestamp (ns)",
        "unix",
        "Date",
        "time [s]",
        "seconds_elapsed",
        "timestamp (+0100)",
        "Sensor_Timestamp",
    ],
)
def test_times_of_another_unit_are_no_channel(tmp_path, name):
    path = tmp_path / "x.csv"
    path.write_text(f"{name},x\n0,1\n10,2\n")
    with pytest.raises(SampleError, match="looks like times: call it time, in seconds"):
        read_series(str(path), 2)
    frame(tmp_path / "x.parquet", {name: TIMES, "x": TIMES})
    with pytest.raises(SampleError, match="looks like times"):
        read_series(str(tmp_path / "x.parquet"), 2)
    assert read_series(f"{tmp_path}/x.parquet#x", 1).values.shape == (1, len(TIMES))


def test_dates_are_no_seconds(tmp_path):
    (tmp_path / "x.csv").write_text("time,x\n2024-01-01T00:00:00,1\n2024-01-01T00:00:01,2\n")
    with pytest.raises(SampleError, match="no number of seconds .*parquet.*line 2: '2024-01-01T00:00:00'"):
        read_series(str(tmp_path / "x.csv"), 1)
    frame(tmp_path / "x.parquet", {"time": ["2024-01-01", "2024-01-02"], "x": [1.0, 2.0]})
    with pytest.raises(SampleError, match="times are seconds .numbers., timestamps or durations"):
        read_series(str(tmp_path / "x.parquet"), 1)


@pytest.mark.parametrize(("suffix", "extra", "module"), [("parquet", "parquet", "pyarrow"), ("edf", "edf", "edfio")])
def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch, suffix, extra, module):
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / f"x.{suffix}").write_bytes(b"x")
    with pytest.raises(ConfigError, match=rf"needs {module}: pip install 'dust-video\[{extra}\]'"):
        read_series(str(tmp_path / f"x.{suffix}"), 1)
    (tmp_path / "train.csv").write_text(f"id,label,series\na,x,x.{suffix}\nb,y,x.{suffix}\n")
    with pytest.raises(ConfigError, match=rf"dust-video\[{extra}\]"):
        check_data(str(tmp_path))


def test_lists_name_columns_and_check_reads_them(tmp_path):
    for name in "ab":
        frame(tmp_path / f"{name}.parquet", {"time": TIMES, "x": VALUES[1] + ord(name), "y": TIMES, "z": TIMES})
    rows = "".join(f'{name},{name},"{name}.parquet#x,z"\n' for name in "ab")
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text("id,label,series\n" + rows.replace("a,a", f"{split},a", 1))
    report = check_data(str(tmp_path))
    assert report.files == 2 and {one.kind for one in report.findings} == {"leak"}
    (tmp_path / "a.parquet").write_bytes(b"")
    report = check_data(str(tmp_path))
    assert {one.kind for one in report.errors} == {"leak", "bad"}
    assert isinstance(report.errors[0].detail, str) and DataError


def test_columns_of_one_name_are_not_one_column(tmp_path):
    arrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    path = tmp_path / "x.parquet"
    parquet.write_table(arrow.Table.from_arrays([arrow.array([1.0, 2.0]), arrow.array([3.0, 4.0])], ["a", "a"]), path)
    for reference, channels in ((str(path), 1), (str(path), 2), (f"{path}#a", 1)):
        with pytest.raises(SampleError, match=r"several columns of one name.*\(a\)"):
            read_series(reference, channels)


def test_records_out_of_order_are_not_laid_on_other_times(tmp_path):
    edfio = pytest.importorskip("edfio")
    path = tmp_path / "x.edf"
    edf(path, [("a", 10, np.arange(40) * 2.0), ("b", 2, np.arange(8) * 5.0)],
        annotations=[edfio.EdfAnnotation(0.5, None, "here")], data_record_duration=1)  # fmt: skip
    in_pieces(path)
    path.write_bytes(path.read_bytes().replace(b"+13", b"+1\x14"))  # the last record begins with the second one
    for mend in (False, True):
        with pytest.raises(SampleError, match="overlap or go backwards"):
            read_series(str(path), 2, mend=mend)
