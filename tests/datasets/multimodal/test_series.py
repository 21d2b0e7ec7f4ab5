"""One series: every way to write it, resampling against NumPy, and what is refused."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from dust.datasets.arrays import SampleError, split_reference
from dust.datasets.multimodal.series import Series, SeriesRules, Window, read_series, resample
from tests.helpers import SHARED

VALUES = np.array([[0.5, 1.0, 2.0, -3.0], [10.0, 20.0, 30.0, 40.0]], np.float32)  # (2 channels, 4 points)


def text(path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def saved(path, array) -> str:
    np.save(path, array)
    return str(path)


# --- one series, many ways to write it ------------------------------------------------------------------------------

CSV = "0.5,10\n1,20\n2,30\n-3,40\n"


@pytest.mark.parametrize(
    "content",
    [
        CSV,
        CSV.removesuffix("\n"),
        CSV.replace(",", "\t"),
        CSV.replace(",", ";"),
        CSV.replace(",", "   "),
        CSV.replace("\n", "\r\n"),
        "\ufeffx,y\n" + CSV,
        "x, y\n" + CSV,
        '"x","y"\n"0.5","10"\n1,20\n2e0,30\n-3.0,40\n',
        "0,5;10\n1;20,0\n2;30\n-3,0;40\n",
        "sep=;\r\nx;y\r\n0,5;10\r\n1;20\r\n2;30\r\n-3;40\r\n",
        "0,5\t10\n1\t20\n2\t30\n-3\t40\n",
        '"0,5","10"\n1,20\n2,30\n-3,40\n',
        ("x;y\r\n" + CSV.replace(",", ";")).encode("utf-16"),
    ],
)
def test_ways_to_write_the_same_csv(tmp_path, content):
    series = read_series(text(tmp_path / "a.csv", content), 2)
    np.testing.assert_array_equal(series.values, VALUES)
    assert series.values.dtype == np.float32 and series.times is None


@pytest.mark.parametrize("name", ["time", "t", "timestamp", "seconds", "Time"])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_time_column_anywhere(tmp_path, name, column):
    rows = [[0.5, 10], [1, 20], [2, 30], [-3, 40]]
    lines = [["x", "y"], *rows]
    for line, time in zip(lines, [name, 0, 0.5, 0.7, 2.0], strict=True):
        line.insert(column, time)
    series = read_series(text(tmp_path / "a.csv", "\n".join(",".join(map(str, line)) for line in lines)), 2)
    np.testing.assert_array_equal(series.values, VALUES)
    np.testing.assert_array_equal(series.times, [0, 0.5, 0.7, 2.0])


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ">f4", np.int16])
def test_arrays_channels_first_and_last(tmp_path, dtype):
    values = VALUES.astype(dtype)
    expected = values.astype(np.float32)
    np.testing.assert_array_equal(read_series(saved(tmp_path / "a.npy", values), 2).values, expected)
    np.testing.assert_array_equal(read_series(saved(tmp_path / "b.npy", values.T), 2).values, expected)
    np.testing.assert_array_equal(read_series(saved(tmp_path / "c.npy", np.asfortranarray(values)), 2).values, expected)


def test_a_square_array_is_channels_first(tmp_path):
    square = np.arange(4.0).reshape(2, 2)
    np.testing.assert_array_equal(read_series(saved(tmp_path / "a.npy", square), 2).values, square)


def test_a_csv_is_never_turned(tmp_path):
    """3 rows of 2 columns with NUM_CHANNELS 3: the columns are what is wrong, not the order."""
    path = text(tmp_path / "a.csv", "1,2\n3,4\n5,6\n")
    with pytest.raises(SampleError, match="NUM_CHANNELS 3.*2 columns"):
        read_series(path, 3)


def test_one_channel_may_come_without_its_axis(tmp_path):
    for array in (VALUES[0], VALUES[:1], VALUES[:1].T):
        np.testing.assert_array_equal(read_series(saved(tmp_path / "a.npy", array), 1).values, VALUES[:1])
    np.testing.assert_array_equal(read_series(text(tmp_path / "a.csv", "0.5\n1\n2\n-3\n"), 1).values, VALUES[:1])


def test_rows_of_a_stack(tmp_path):
    stack = np.stack([VALUES, VALUES + 1, VALUES + 2])
    path, turned = saved(tmp_path / "a.npy", stack), saved(tmp_path / "b.npy", stack.swapaxes(1, 2))
    for row in range(3):
        np.testing.assert_array_equal(read_series(f"{path}#{row}", 2).values, VALUES + row)
        np.testing.assert_array_equal(read_series(f"{turned}#{row}", 2).values, VALUES + row)
    with pytest.raises(SampleError, match=r"rows count from 0 \(row 3 of \(3, 2, 4\)"):
        read_series(f"{path}#3", 2)


def test_archives(tmp_path):
    np.savez(tmp_path / "a.npz", left=VALUES, right=VALUES.T + 1)
    np.savez_compressed(tmp_path / "b.npz", data=VALUES, time=np.array([0.0, 1, 2, 4]))
    np.testing.assert_array_equal(read_series(f"{tmp_path}/a.npz#right", 2).values, VALUES + 1)
    series = read_series(f"{tmp_path}/b.npz", 2)
    np.testing.assert_array_equal(series.values, VALUES)
    np.testing.assert_array_equal(series.times, [0, 1, 2, 4])
    with pytest.raises(SampleError, match=r"several: name one, as file.npz#name \(left, right\)"):
        read_series(f"{tmp_path}/a.npz", 2)
    with pytest.raises(SampleError, match="no array of that name"):
        read_series(f"{tmp_path}/a.npz#middle", 2)


@pytest.mark.parametrize("cell", ["", " ", "nan", "NaN", "NA", "n/a", "null", "None"])
def test_missing_cells(tmp_path, cell):
    series = read_series(text(tmp_path / "a.csv", f"x,y\n1,{cell}\n{cell},4\n"), 2)
    np.testing.assert_array_equal(series.values, [[1, np.nan], [np.nan, 4]])


def test_a_number_sign_counts_behind_arrays_only():
    assert split_reference("a/b.npy#12") == ("a/b.npy", "12")
    assert split_reference("b.npz#x") == ("b.npz", "x")
    assert split_reference("take #2.mp4") == ("take #2.mp4", "")
    assert split_reference("#3/b.npy") == ("#3/b.npy", "")


def poisoned() -> bytes:
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"1.0 2.0\n", "a.npy: not a .npy file"),
        ("a.npy", pickle.dumps([1]), "not a .npy file"),
        ("a.npy", b"", "not a .npy file"),
        ("a.npy", poisoned(), "Python objects, which are never unpickled"),
        ("a.npz", b"text", "not a .npz file"),
        ("a.npz", b"PK\x03\x04 cut", "damaged: write it again"),
        ("a.txt", CSV, "a.txt: not a series: .npy, .npz, .csv, .parquet, .edf, .bdf are read"),
        ("a.csv", "", "an empty file"),
        ("a.csv", "x,y\n", "a header without values"),
        ("a.csv", b"\xff1,2\n", "not UTF-8"),
        ("a.csv", b"\x00\x01\x02", "NUL byte"),
        ("a.csv", "some words of text\nthat are no series\n", "a cell that is no number.*line 2: .that"),
        ("a.csv", "x,y\n1,2\n3,abc\n", r"a cell that is no number.*line 3: 'abc'"),
        ("a.csv", "1.5;2\n3,5;4\n", r"write all of them with a decimal point.*'3,5' and '1.5'"),
        ("a.csv", '"1,500","2,250"\n', r"part thousands off.*'1,500'"),
        ("a.csv", "1.234,5;2\n", "not numbers .1.234,5"),
        ("a.csv", "0,5,10,0\n1,0,20,0\n", r"commas as decimal points\? put semicolons"),
        ("a.csv", "1,2\n3\n", "rows of different length.*line 2"),
        ("a.csv", "1,2\n\n3,4\n", "rows of different length.*line 2"),
        ("a.csv", "1,2,3\n4,5,6\n", r"another number of columns than SERIES.NUM_CHANNELS 2.*3 columns: 1, 2, 3"),
        ("a.csv", ",x,y\n0,1,2\n", "a column without a name"),
        ("a.csv", "1,x\n1,2\n", "neither a header nor values: not numbers .x"),
        ("a.csv", "time,t,x,y\n0,0,1,2\n", "more than one time column"),
        ("a.csv", "time,x,y\n0,1,2\n,3,4\n", r"times that are missing.*row 1"),
        ("a.csv", "time,x,y\n0,1,2\n2,3,4\n1,5,6\n", r"times that go backwards.*row 2: 1 s after 2 s"),
        ("a.csv", "time,x,y\n0,1,2\n2,3,4\n2,5,6\n", "times that repeat"),
    ],
)
def test_files_that_are_no_series(tmp_path, capsys, name, content, message):
    with pytest.raises(SampleError, match=message):
        read_series(text(tmp_path / name, content), 2)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 7)), r"another number of channels than SERIES.NUM_CHANNELS 2.*shape \(5, 7\)"),
        (np.zeros(7), "another number of channels"),
        (np.zeros((4, 2, 7)), "several series in one array: name one"),
        (np.zeros((2, 0)), "without values"),
        (np.zeros((2, 7), complex), "not an array of real numbers"),
        (np.array([["a", "b"], ["c", "d"]]), "not an array of real numbers"),
        (np.zeros((2, 7), [("x", "f4")]), "not an array of real numbers"),
    ],
)
def test_arrays_that_are_no_series(tmp_path, array, message):
    with pytest.raises(SampleError, match=message):
        read_series(saved(tmp_path / "a.npy", array), 2)


def test_an_array_that_announces_more_than_it_holds_allocates_nothing(tmp_path):
    path = saved(tmp_path / "a.npy", np.zeros((2, 9)))
    data = bytearray((tmp_path / "a.npy").read_bytes())
    text(tmp_path / "a.npy", bytes(data).replace(b"(2, 9), }          ", b"(2, 999999999999), "[:19].ljust(19)))
    assert (tmp_path / "a.npy").stat().st_size == len(data)
    with pytest.raises(SampleError, match="damaged"):
        read_series(path, 2)


def test_a_missing_file(tmp_path):
    for name in ("a.npy", "a.npy#3", "a.npz", "a.csv"):
        with pytest.raises(SampleError, match="a.(np.|csv): cannot be read: No such file"):
            read_series(str(tmp_path / name), 2)


# --- to the model's length ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 5, 51, 120])
def test_resampling_is_numpy_interp(length):
    rng = np.random.RandomState(0)
    times = np.cumsum(rng.uniform(0.01, 0.04, 51))
    values = rng.standard_normal((3, 51)).astype(np.float32)
    at = np.linspace(times[0], times[-1], length)
    slow = np.stack([np.interp(at, times, channel) for channel in values])
    np.testing.assert_allclose(resample(values, times, at), slow, atol=1e-6)


def test_resampling_at_the_points_gives_the_points():
    times = np.array([0.1, 0.2, 0.30000000000000004, 0.4])
    np.testing.assert_array_equal(resample(VALUES, times, np.array([0.1, 0.2, 0.3, 0.4])), VALUES)


def test_a_missing_value_is_not_interpolated_across():
    values = np.array([[0, 1, np.nan, 3, 4]], np.float32)
    at = np.array([0, 0.5, 1, 1.01, 1.5, 2, 2.5, 3, 3.5, 4])
    got = resample(values, np.arange(5.0), at)
    np.testing.assert_array_equal(got, [[0, 0.5, 1, np.nan, np.nan, np.nan, np.nan, 3, 3.5, 4]])


def test_rate_lays_a_series_on_an_even_axis():
    times = np.array([1.0, 1.1, 1.3, 1.4, 2.05])
    values = np.stack([times, 2 * times]).astype(np.float32)
    rules = SeriesRules(2, rate=10.0, missing="mask")
    got = rules.prepare(Series(values, times), "a")
    np.testing.assert_allclose(got[0], 1.0 + np.arange(11) / 10, rtol=1e-6)
    fitted = SeriesRules(2, length=6, fit="resample", rate=10.0).prepare(Series(values, times), "a")
    np.testing.assert_allclose(fitted[1], 2 * np.linspace(1.0, 2.0, 6), rtol=1e-6)


def test_resample_without_times_is_over_the_points():
    got = SeriesRules(2, length=7, fit="resample").prepare(Series(VALUES), "a")
    np.testing.assert_allclose(got, [np.interp(np.linspace(0, 3, 7), range(4), row) for row in VALUES], rtol=1e-6)


def test_crops():
    values = np.arange(10, dtype=np.float32)[None]
    rules = SeriesRules(1, length=4, fit="crop")
    np.testing.assert_array_equal(rules.prepare(Series(values), "a"), [[3, 4, 5, 6]])
    starts = {rules.prepare(Series(values), "a", np.random.RandomState(n))[0, 0] for n in range(60)}
    assert starts == {0, 1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize(
    ("rules", "points", "message"),
    [
        (SeriesRules(1, length=4), 5, r"not the 4 time points of SERIES.LENGTH.*SERIES.FIT resample or crop.*5 points"),
        (SeriesRules(1, length=4), 3, "3 points"),
        (SeriesRules(1, length=4, fit="crop"), 3, "shorter.*SERIES.FIT resample"),
        (SeriesRules(1, length=4, fit="resample"), 1, "a single point"),
        (SeriesRules(1, length=4, rate=10.0), 4, "no time column"),
    ],
)
def test_lengths_that_do_not_fit(rules, points, message):
    with pytest.raises(SampleError, match=message):
        rules.prepare(Series(np.zeros((1, points), np.float32)), "a.npy")


def test_gaps():
    """Ten steps of 0.1 s, then one of 1 s: refused, or with a mask on an even axis the points within it are missing."""
    times = np.append(np.arange(11) / 10, 2.0)
    series = Series(times[None].astype(np.float32), times)
    for rules in (
        SeriesRules(1, length=12),
        SeriesRules(1, length=12, missing="mask"),
        SeriesRules(1, length=12, fit="resample"),
        SeriesRules(1, rate=10.0),
    ):
        with pytest.raises(SampleError, match=r"a gap of more than 5.*SERIES.MISSING.*1 s behind 1 s, median 0.1 s"):
            rules.prepare(series, "a")
    got = SeriesRules(1, length=21, fit="resample", rate=10.0, missing="mask").prepare(series, "a")
    expected = np.arange(21) / 10
    expected[11:20] = np.nan
    np.testing.assert_allclose(got[0], expected, rtol=1e-6)


def test_a_cut_archive(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", data=np.random.RandomState(0).standard_normal((2, 900)))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[500:900] = bytes(400)
    (tmp_path / "a.npz").write_bytes(data)
    assert zipfile.is_zipfile(tmp_path / "a.npz")
    with pytest.raises(SampleError, match="damaged"):
        read_series(str(tmp_path / "a.npz"), 2)


@pytest.mark.parametrize("factor, unit", [(1e3, "milliseconds"), (1e6, "microseconds"), (1e9, "nanoseconds")])
@pytest.mark.parametrize("begin", [0, 1.7e9])
@pytest.mark.parametrize("own", [25.0, 50.0, 200.0])
def test_times_of_another_unit_are_refused_beside_the_rate(factor, unit, begin, own):
    times = np.round((begin + np.arange(200) / own) * factor)
    with pytest.raises(SampleError, match=f"SERIES.RATE 50 .*{unit}.*median step .*steps by 0.02"):
        SeriesRules(1, length=100, fit="crop", rate=50.0).prepare(Series(times[None].astype(np.float32), times), "a")


def test_seconds_since_1970_and_coarse_series_stay_what_they_are():
    for times in (1.7e9 + np.arange(200) / 50, np.arange(50) / 6):
        series = Series(times[None].astype(np.float32), times)
        assert SeriesRules(1, length=100, fit="crop", rate=50.0).prepare(series, "a").shape == (1, 100)
    lost = np.append(np.arange(50) / 50, 9e9)
    with pytest.raises(SampleError, match="SERIES.RATE"):
        SeriesRules(1, rate=50.0, missing="mask").prepare(Series(lost[None].astype(np.float32), lost), "a")


@pytest.mark.skipif(not (SHARED / "cases").is_dir(), reason="needs the inputs of ../shared/cases")
def test_cases_of_units():
    rules = SeriesRules(2, length=100, fit="crop", rate=50.0)
    paths = [str(SHARED / "cases" / name) for name in ("s_0.csv", "ms_0.csv", "ns_0.csv")]
    window = rules.prepare(read_series(paths[0], 2), paths[0])
    assert window.shape == (2, 100) and window[0].min() == pytest.approx(-1, abs=0.01)
    for path in paths[1:]:
        with pytest.raises(SampleError, match="median step"):
            rules.prepare(read_series(path, 2), path)


# --- clocks and windows of long recordings ----------------------------------------------------------------------------


def test_late_packets_are_put_in_order_and_rows_of_one_time_averaged(tmp_path):
    content = "time,x,y\n0,1,10\n3,4,40\n1,2,\n1,4,30\n2,3,\n2,5,\n"
    with pytest.raises(SampleError, match=r"go backwards: set SERIES.TIMES mend.*row 2: 1 s after 3 s"):
        read_series(text(tmp_path / "a.csv", content), 2)
    series = SeriesRules(2, times="mend").read(str(tmp_path / "a.csv"))
    np.testing.assert_array_equal(series.times, [0, 1, 2, 3])
    np.testing.assert_array_equal(series.values, [[1, 3, 4, 4], [10, 30, np.nan, 40]])
    even = text(tmp_path / "b.csv", "time,x,y\n0,1,2\n1,3,4\n")
    np.testing.assert_array_equal(read_series(even, 2, mend=True).values, read_series(even, 2).values)


def test_a_window_is_half_open_on_the_recordings_clock():
    own = np.arange(0, 100, 0.5)
    series = Series(np.stack([own, -own]).astype(np.float32), own)
    cut = Window(start=10.0, end=12.0).cut(series, "a", pad=False)
    np.testing.assert_array_equal(cut.values[0], [10, 10.5, 11, 11.5])
    shifted = Window(10.0, 12.0, offset_s=4.0).cut(series, "a", pad=False)  # begun 4 s after the recording
    np.testing.assert_array_equal(shifted.values[0], [6, 6.5, 7, 7.5])
    np.testing.assert_array_equal(shifted.times, [10, 10.5, 11, 11.5])
    drifted = Window(50.0, None, drift_ppm=10_000).cut(series, "a", pad=False)  # one second in a hundred
    assert drifted.values[0, 0] == 50.0 and drifted.times[0] == pytest.approx(50.5) and len(drifted.times) == 100
    assert Window(None, 1.0).cut(series, "a", pad=False).values[0].tolist() == [0, 0.5]


def test_a_window_that_is_covered_in_part_is_refused_or_missing_there():
    own = np.arange(0, 20, 0.5)
    series = Series(own[None].astype(np.float32), own)
    with pytest.raises(SampleError, match="no times"):
        Window(1.0).cut(Series(series.values), "a", pad=True)
    with pytest.raises(SampleError, match="no value in the window.*goes from 0 to 19.5 s"):
        Window(30.0, 40.0).cut(series, "a", pad=True)
    with pytest.raises(SampleError, match="part of the window only"):
        Window(15.0, 30.0).cut(series, "a", pad=False)
    assert len(Window(15.0, 21.0).cut(series, "a", pad=False).times) == 10  # less than a gap
    cut = Window(-10.0, 30.0).cut(series, "a", pad=True)
    values = SeriesRules(1, length=41, fit="resample", missing="mask").prepare(cut, "a")[0]
    np.testing.assert_array_equal(values[10:30], np.arange(20))
    assert np.isnan(values[:10]).all() and np.isnan(values[30:]).all()
