"""What words mean: files, web addresses, patterns; and which options a stream of them has."""

import http.server
import threading
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from dust.deploy.reading_procedures import ProcedureReader
from dust.deploy.reading_tracks import TrackReader, sample_of
from dust.deploy.sources import find_sources, is_single, missing
from dust.deploy.streams import open_stream
from dust.utils.errors import ConfigError, DataError


def test_a_question_mark_in_an_address_is_no_pattern(model):
    address = "https://example.org/a.mp4?size=1&x=[2]"
    assert find_sources([address], model.reader) == [address] and is_single(address, model.reader)


@pytest.mark.parametrize("name", ["a b#c?100%.mp4", "ü[1].mp4"])
def test_the_address_of_a_file_is_that_file(model, clips, tmp_path, name):
    (tmp_path / name).write_bytes((clips / "clip_14.mp4").read_bytes())
    path, address = str(tmp_path / name), (tmp_path / name).as_uri()  # as a browser or a file manager writes it
    assert find_sources([address], model.reader) == [path] and not missing([address])
    plain, other = model(path), model(address)
    assert other.path == path and np.array_equal(plain.logits, other.logits)
    assert np.array_equal(model.features(address), model.features(path))
    windows = [[one.logits for one in model.stream(source)] for source in (path, address)]
    assert windows[0] and np.array_equal(*windows)
    assert find_sources([tmp_path.as_uri()], model.reader) == [path], "and of a folder, that folder"
    gone = f"{address}.txt"
    assert missing([gone, "file://host/a.mp4"]) == [
        f"{gone}: there is no such file or folder",
        "file://host/a.mp4: names a file of the machine 'host'; the address of one here is like "
        "file:///home/me/clip.mp4",
    ]
    with pytest.raises(DataError, match="machine 'a.mp4'"):
        find_sources(["file://a.mp4"], model.reader)
    answers = model(["file://host/a.mp4", path])
    assert "machine 'host'" in answers[0].error and np.array_equal(answers[1].logits, plain.logits)
    assert model("file://host/a.mp4").error == answers[0].error


def test_a_fetched_file_is_whole_and_its_address_as_people_write_it(model, clips, tmp_path):
    data = (clips / "clip_14.mp4").read_bytes()
    (tmp_path / "a ü+b.mp4").write_bytes(data)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if "cut" not in self.path:
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:1000])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        found = model([f"{address}/{name}.mp4" for name in ("a ü+b", "a%20%C3%BC+b", "cut")])
        server.shutdown()
    assert found[0].ok and np.array_equal(found[0].logits, found[1].logits)
    assert f"breaks off after 1,000 of {len(data):,} bytes" in found[2].error


@pytest.mark.parametrize("name", ["walk_view_0.mp4", "walk_view_0.NPZ", "walk_view_0.txt"])
def test_a_file_that_holds_no_tracks_is_taken_by_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"nothing")
    np.savez(tmp_path / "walk_view_1.npz", tracks=np.zeros((3, 2, 2)))
    clip = sample_of(tmp_path / name, tmp_path)
    assert clip.files == {0: str(tmp_path / name)}, "whoever reads it says what is wrong with it"
    assert set(sample_of(tmp_path / "walk_view_1.npz", tmp_path).files) == {1}


def test_options_that_a_stream_has_not(model, clips):
    clip = clips / "clip_14.mp4"
    tracks = SimpleNamespace(reader=TrackReader(lambda _: None, [], {"input": "tracks"}))
    steps = SimpleNamespace(reader=ProcedureReader(lambda _: None, None, "", 1, {"input": "recording"}))
    for predictor, source, options, said in (
        (model, clip, {"widnow": 3}, "a model of video has no option widnow. It has window, stride"),
        (model, clip, {"retries": 3, "seconds": 1}, "option retries is for a camera or a network stream; option sec"),
        (tracks, "a.npz", {"window": 1.0}, "a model of tracks has no option window. It has stride"),
        (tracks, "a.npz", {"queue": 1}, "option queue is for a camera"),
        (steps, "a.mp4", {"window": 1.0, "stride": 1.0}, "no option window; a stream of a model of recording has no "),
        (steps, "camera:0", {"stride": 1.0}, "no option stride. It has queue, retries, seconds"),
    ):
        with pytest.raises(ConfigError, match=said):
            open_stream(predictor, source, **options)


def test_links_in_a_folder_lead_round_in_no_circle(model, clips, tmp_path):
    (tmp_path / "a.mp4").symlink_to(clips / "clip_14.mp4")
    (tmp_path / "b.mp4").symlink_to("b.mp4")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "again").symlink_to(tmp_path)
    (tmp_path / "inside" / "c.mp4").symlink_to("nowhere")
    (tmp_path / "beside").symlink_to(clips)
    found = find_sources([str(tmp_path)], model.reader)
    names = [one.removeprefix(f"{tmp_path}/") for one in found]
    assert [name for name in names if not name.startswith("beside")] == ["a.mp4", "b.mp4", "inside/c.mp4"]
    assert len(names) == 3 + len(list(clips.glob("*.mp4"))), "another folder is followed"
    predictions = list(model.predict(found[:2]))
    assert predictions[0].ok and "symbolic links" in predictions[1].error


def test_each_word_that_names_nothing_has_a_line_of_its_own(model, tmp_path):
    with pytest.raises(DataError) as error:
        find_sources([f"{tmp_path}/a*.mp4", f"{tmp_path}/b*.mp4"], model.reader)
    first, second = str(error.value).split("\n")
    assert "a*.mp4: no file matches" in first and "b*.mp4: no file matches" in second


def test_a_folder_is_read_as_one_of_a_data_set(model, tmp_path, caplog):
    """The one scanner of folders: nobody's files, pictures of other things, and what else is left out is said."""
    for name in ("a10.mp4", "a2.asf", "b/1.bmp", "b/2.bmp", "flow/1.png", "__MACOSX/c.mp4", "d.xyz", "._a.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = find_sources([str(tmp_path)], model.reader)
    assert [one.removeprefix(f"{tmp_path}/") for one in found] == ["a2.asf", "a10.mp4", "b"]
    assert "which is not read as video (d.xyz)" in caplog.text and "something else (flow" in caplog.text
    assert find_sources([str(tmp_path / "b")], model.reader) == [str(tmp_path / "b")]
