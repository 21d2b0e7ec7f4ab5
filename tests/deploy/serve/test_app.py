"""What the server answers: the numbers of ``dust predict``, one sentence for what it cannot, and nothing lost."""

import gc
import http.client
import json
import logging
import socket
import struct
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from io import BytesIO

import numpy as np
import psutil
import pytest
from PIL import Image

import dust
from dust.decode import cache
from dust.decode.deadline import OutOfTime
from dust.decode.reader import VideoReader
from dust.deploy.prediction import Prediction
from dust.deploy.reading import Reading
from dust.deploy.serve.app import check_extra
from dust.deploy.serve.limits import Limits
from dust.deploy.serve.service import Service
from dust.utils.errors import ConfigError
from tests.datasets.clip_files import write_clip
from tests.deploy.serve.serving import call, form, send, serving, until

EVIL = {"Origin": "http://evil.example"}


def values(answer):
    return answer["predictions"][0]["probabilities"]


def test_an_upload_has_the_answer_of_predict(server, model, clips):
    path = clips / "clip_14.mp4"
    status, headers, found = send(server.port, path)
    assert status == 200 and headers["content-type"] == "application/json"
    expected, (one,) = model(path), found["predictions"]
    assert one["id"] == one["path"] == "clip_14.mp4" and one["label"] == expected.label
    assert one["probabilities"] == pytest.approx(dict(expected.probabilities), abs=1e-5)
    assert one["views"] == 6 and one["top"][0] == [one["label"], pytest.approx(one["confidence"])]
    assert found["classes"] == model.classes and found["preprocess"]["views"] == 6 and "error" not in found
    assert not list(server.folder.iterdir()), "uploads are removed"
    assert not [key for key in cache._memory if key[0].startswith(str(server.folder))], "and nothing is kept of them"


def test_a_file_of_the_folder(server, model, clips, tmp_path):
    expected = dict(model(clips / "clip_15.mp4").probabilities)
    for found in (call(server.port, "POST", "/predict?path=clip_15.mp4"), send(server.port, path="clip_15.mp4")):
        assert found[0] == 200 and values(found[2]) == pytest.approx(expected, abs=1e-5)
        assert found[2]["predictions"][0]["path"] == "clip_15.mp4"
    for name, code in {"../clips/x": 403, "/etc/passwd": 403, "gone.mp4": 404, "": 400}.items():
        status, _, found = send(server.port, path=name) if name else send(server.port)
        assert status == code and set(found) == {"error"}, name
    assert send(server.port, clips / "clip_1.mp4", path="clip_1.mp4")[0] == 400
    assert send(server.port, path=".")[0] == 422, "a folder of many clips is none"


def test_threshold_and_top(server, model, clips):
    path = clips / "clip_14.mp4"
    sure = model(path).confidence
    below, above = (send(server.port, path, query=f"?threshold={sure + step}&top=1")[2] for step in (0.01, -0.01))
    assert below["predictions"][0]["label"] == "none of these" and below["threshold"] == sure + 0.01
    assert above["predictions"][0]["label"] == model(path).label
    assert len(values(above)) == 1 and len(above["predictions"][0]["top"]) == 1
    for query, word in {"?top=-1": "top", "?threshold=2": "threshold", "?window=x": "window"}.items():
        status, _, found = send(server.port, path, query=query)
        assert status == 422 and found["error"].startswith(f"{word}: "), query


def test_a_timeline_is_that_of_the_stream(server, model, tmp_path):
    path = write_clip(tmp_path / "long.mp4", 100)
    found = send(server.port, path, query="?timeline=true&window=1&stride=0.5&top=2")[2]["timeline"]
    expected = list(model.stream(path, window=1.0, stride=0.5))
    assert [one["start"] for one in found["windows"]] == [one.start for one in expected]
    for one, other in zip(found["windows"], expected, strict=True):
        assert dict(one["top"]) == pytest.approx(dict(other.probabilities), abs=1e-5)
    assert found["duration"] == pytest.approx(4) and found["segments"][-1]["end"] == pytest.approx(4)
    assert found["segments"][0]["label"] in model.classes and found["notes"] == []


def test_damage_is_said(server, tmp_path):
    whole = write_clip(tmp_path / "whole.mp4", 60, options={"g": "12"}, container={"movflags": "faststart"})
    data = whole.read_bytes()
    status, _, found = send(server.port, ("cut.mp4", data[: len(data) * 2 // 3]))
    assert status == 200 and found["predictions"][0]["damage"]


def test_what_cannot_be_read_has_its_reason_and_no_path_of_the_server(server, tmp_path):
    long = write_clip(tmp_path / "long.mp4", 30)
    (tmp_path / "list").mkdir()
    cases = {"bad.mp4": b"no video", "empty.mp4": b"", "concat.mp4": b"ffconcat version 1.0\nfile long.mp4\n"}
    for name, data in {**cases, "cut.mp4": long.read_bytes()[:100]}.items():
        status, _, found = send(server.port, (name, data))
        assert status == 422 and found["error"] and found["predictions"][0]["error"] == found["error"], name
        assert found["predictions"][0]["id"] == name and "dust-serve" not in json.dumps(found)
    for name in ("x.mp4", "x.ffconcat", "x.csv", "x.npz"):  # whatever it is called, this model takes it for a video
        assert "playlist" in send(server.port, (name, cases["concat.mp4"]))[2]["error"]
    odd = "../../x\x1b[31m\u202e.mp4"
    assert send(server.port, (odd, b"no"))[2]["predictions"][0]["id"] == "x\\x1b[31m\\u202e.mp4"


def test_a_form_that_is_none(server, clips):
    data = (clips / "clip_1.mp4").read_bytes()
    body, headers = form(("a.mp4", data))
    cases = [
        (body, {"Content-Type": "application/json"}, 415, "multipart"),
        (body[:-20], headers, 400, "breaks off"),
        (b"nonsense", headers, 400, "cannot be read"),
        (form(("a.mp4", data), other="x")[0], headers, 400, "'other' is unknown"),
        (form(("a.mp4", data), ("a.mp4", data))[0], headers, 400, "two files"),
        (form(path="x" * 5000)[0], headers, 400, "too long"),
    ]
    for sent, head, code, word in cases:
        status, _, found = call(server.port, "POST", "/predict", sent, head)
        assert status == code and word in found["error"], word
    status, _, found = call(server.port, "POST", "/predict?treshold=0.9", body, headers)
    assert status == 400 and "'treshold' is unknown" in found["error"] and "threshold" in found["error"]
    assert not list(server.folder.iterdir())


def test_thirty_two_clients_at_once(server, model, clips, tmp_path):
    """Good and bad ones in turn: each gets its own answer, that of one by one, and memory stays as it is."""
    paths = [clips / f"clip_{number % 18}.mp4" for number in range(32)]
    expected = {path: dict(model(path).probabilities) for path in set(paths)}
    bad = {3: b"no video", 7: b"", 11: paths[0].read_bytes()[:300], 19: b"\0" * 9000}

    def ask(number):
        if number in bad:
            return send(server.port, (f"bad_{number}.mp4", bad[number]))
        if number == 23:  # leaves in the middle
            with socket.create_connection(("127.0.0.1", server.port)) as line:
                line.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
                             b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n")  # fmt: skip
            return None
        return send(server.port, (f"{number}.mp4", paths[number].read_bytes()))

    def a_round():
        with ThreadPoolExecutor(32) as pool:
            return list(pool.map(ask, range(32)))

    def kept():
        gc.collect()
        return sum(type(one) in (Reading, Prediction) for one in gc.get_objects())

    others = kept()  # of tests before this one
    a_round()
    before = psutil.Process().memory_info().rss
    for _ in range(2):
        found = a_round()
    grown = psutil.Process().memory_info().rss - before
    for number, answer in enumerate(found):
        if number in bad:
            assert answer[0] == 422 and answer[2]["predictions"][0]["id"] == f"bad_{number}.mp4"
        elif number != 23:
            assert answer[0] == 200 and answer[2]["predictions"][0]["id"] == f"{number}.mp4"
            assert values(answer[2]) == pytest.approx(expected[paths[number]], abs=1e-5)
    assert grown < 40 << 20, f"{grown >> 20} MB more after 64 requests"
    until(lambda: not list(server.folder.iterdir()))
    assert kept() - others < 32, "nothing is kept of 96 requests, but for what the threads have in hand"
    text = call(server.port, "GET", "/metrics")[2]
    sizes = [
        float(line.split()[-1]) for line in text.splitlines() if line.startswith('dust_batch_clips_bucket{le="1.0"}')
    ]
    total = [float(line.split()[-1]) for line in text.splitlines() if line.startswith("dust_batch_clips_count")]
    assert sizes[0] < total[0], "requests that wait share a batch"


# ----------------------------------------------------------------------------------------------------------- limits


class Held:
    """A model that begins to read only when it is let."""

    def __init__(self, model):
        self.gate, self.reading = threading.Event(), threading.Event()
        self.model = copy(model)
        reader = copy(model.reader)
        read = reader.read

        def wait(source):
            self.reading.set()
            self.gate.wait(60)
            return read(source)

        reader.read = wait
        self.model.reader = reader


def test_a_full_queue_sends_away(model, clips):
    held = Held(model)
    with serving(held.model, limits=Limits(queue=1)) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(send, server.port, clips / "clip_1.mp4")
        assert held.reading.wait(30)
        status, headers, found = send(server.port, clips / "clip_2.mp4")
        assert status == 503 and int(headers["retry-after"]) > 0 and "places are taken" in found["error"]
        assert call(server.port, "GET", "/health")[0] == 200
        held.gate.set()
        assert first.result()[0] == 200
        assert send(server.port, clips / "clip_2.mp4")[0] == 200


def test_a_folder_of_uploads_that_was_cleaned_up(model, clips):
    with serving(model) as server:
        server.folder.rmdir()
        assert send(server.port, clips / "clip_1.mp4")[0] == 200


def test_a_request_that_takes_too_long(model, clips):
    held = Held(model)
    with serving(held.model, limits=Limits(timeout=0.3)) as server:
        status, _, found = send(server.port, clips / "clip_1.mp4")
        held.gate.set()
        assert status == 504 and "--timeout" in found["error"]
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:  # a body that never ends
            line.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
                         b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n")  # fmt: skip
            assert line.recv(1000).startswith(b"HTTP/1.1 504")
        until(lambda: not list(server.folder.iterdir()))


def test_who_leaves_makes_room(model, clips):
    held = Held(model)
    with serving(held.model, limits=Limits(queue=1)) as server:
        body, headers = form(("a.mp4", (clips / "clip_1.mp4").read_bytes()))
        line = http.client.HTTPConnection("127.0.0.1", server.port)
        line.request("POST", "/predict", body, headers)
        assert held.reading.wait(30) and list(server.folder.iterdir())
        line.close()
        until(lambda: not list(server.folder.iterdir()))
        until(lambda: server.service._busy == 0)  # its place is free before its file is read
        held.gate.set()


def test_too_large_too_long(model, clips, tmp_path):
    with serving(model, limits=Limits(max_mb=0.5, max_minutes=1 / 60)) as server:
        body, headers = form(("a.mp4", b"x" * (600 << 10)))
        status, _, found = call(server.port, "POST", "/predict", body, {**headers, "Expect": "100-continue"})
        assert status == 413 and "--max-mb" in found["error"], "said before the body is sent"
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        pieces = (body[start : start + 65536] for start in range(0, len(body), 65536))
        connection.request("POST", "/predict", pieces, headers, encode_chunked=True)  # nobody says how large it is
        assert connection.getresponse().status == 413
        status, _, found = send(server.port, write_clip(tmp_path / "long.mp4", 60))
        assert status == 422 and "--max-minutes" in found["error"] and "lasts 2 s" in found["error"]
        assert send(server.port, clips / "clip_14.mp4")[0] == 200
        assert not list(server.folder.iterdir())


def test_a_fault_of_ours_shows_nothing(model, clips, caplog):
    broken = copy(model)
    broken.predict_batch = None
    with serving(broken) as server, caplog.at_level(logging.ERROR):
        status, _, found = send(server.port, clips / "clip_1.mp4")
        assert status == 500 and found == {"error": "a fault of the server: its log says more"}
        assert call(server.port, "GET", "/health")[0] == 200
    assert any("NoneType" in str(record.exc_info) for record in caplog.records), "the log has it"


# ------------------------------------------------------------------------------------------------------ who may ask


def test_other_sites_are_refused(server):
    for headers in (EVIL, {"Origin": "null"}, {"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        for path in ("/model", "/metrics", "/health", "/page.js"):
            assert call(server.port, "GET", path, headers=headers)[0] == 403, headers
        assert call(server.port, "POST", "/predict?path=clip_1.mp4", headers=headers)[0] == 403
    own = {"Origin": f"http://127.0.0.1:{server.port}", "Sec-Fetch-Site": "same-origin"}
    assert call(server.port, "GET", "/model", headers=own)[0] == 200
    assert (
        call(server.port, "GET", "/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})[0] == 200
    )


def test_a_token_is_asked_for(model, clips):
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    with serving(model, token="open-sesame", files=str(clips)) as server:
        for headers in ({}, {"Authorization": "Bearer open-sesam"}, {"Authorization": "Basic open-sesame"}):
            assert call(server.port, "GET", "/model", headers=headers)[0] == 401
            assert call(server.port, "POST", "/predict?path=clip_1.mp4", headers=headers)[0] == 401
            assert call(server.port, "GET", "/openapi.json", headers=headers)[0] == 401
        know = {"Authorization": "Bearer open-sesame"}
        assert send(server.port, clips / "clip_1.mp4", headers=know)[0] == 200
        assert call(server.port, "GET", "/")[0] == call(server.port, "GET", "/health")[0] == 200
        address = f"ws://127.0.0.1:{server.port}/stream"
        with pytest.raises(InvalidStatus, match="401"):
            connect(address)
        with connect(address, subprotocols=["dust", "dust.token.b3Blbi1zZXNhbWU"]) as line:
            assert line.subprotocol == "dust"


def test_pages_and_their_headers(server):
    for path in ("/", "/page.js", "/show.js", "/page.css"):
        status, headers, text = call(server.port, "GET", path)
        assert status == 200 and "://" not in text.replace('"https:"', "").replace("${scheme}://", "")
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
    assert call(server.port, "GET", "/docs")[0] == 404, "its scripts come from elsewhere"
    assert call(server.port, "GET", "/../../etc/passwd")[0] == 404


def test_openapi_and_metrics(server, clips):
    document = call(server.port, "GET", "/openapi.json")[2]
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(body["properties"]) == {"file", "path"} and {"/health", "/model", "/metrics"} <= set(document["paths"])
    names = {one["name"] for one in document["paths"]["/predict"]["post"]["parameters"]}
    assert names == {"path", "top", "threshold", "timeline", "window", "stride"}
    send(server.port, clips / "clip_1.mp4")
    status, headers, text = call(server.port, "GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'dust_requests_total{endpoint="/predict",status="200"}' in text and "dust_requests_under_way 0.0" in text


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ConfigError, match=r"dust serve needs fastapi: pip install 'dust-video\[serve\]'"):
        check_extra()


# ---------------------------------------------------------------------------------------------------------- streams


def message(seconds, pixels, form="PNG"):
    picture = BytesIO()
    Image.fromarray(pixels).save(picture, form)
    return struct.pack("<d", seconds) + picture.getvalue()


def test_a_stream_has_the_windows_of_the_same_frames(server, model, clips):
    from websockets.sync.client import connect

    with VideoReader(clips / "clip_14.mp4") as reader:
        frames = reader.frames(range(len(reader)))
    expected = list(model.stream(frames))
    with connect(f"ws://127.0.0.1:{server.port}/stream?top=2") as line:
        for number, picture in enumerate(frames):
            line.send(message(max(number - 0.01, 0) / 30, picture))  # a frame is there at its moment
        line.send("end")
        found = [json.loads(text) for text in line]
    assert found.pop() == {"notes": []}
    assert len(found) == len(expected) >= 3
    for one, other in zip(found, expected, strict=True):
        assert one["start"] == pytest.approx(other.start, abs=1e-3) and one["delay"] >= 0
        assert one["probabilities"] == pytest.approx(dict(other.probabilities), abs=1e-5)
    assert server.service._busy == 0


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([b"short"], "8 bytes of time"),
        ([struct.pack("<d", 0.0) + b"no picture"], "cannot be read as JPEG"),
        ([message(1.0, np.zeros((8, 8, 3), np.uint8)), message(0.5, np.zeros((8, 8, 3), np.uint8))], "times are"),
        ([message(0.0, np.zeros((8, 8, 3), np.uint8)), message(0.5, np.zeros((9, 8, 3), np.uint8))], "keep one size"),
        ([struct.pack("<d", float("nan")) + b"x"], "times are"),
        (["hello"], "a message is a frame"),
    ],
)
def test_frames_that_are_none(server, sent, said):
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{server.port}/stream") as line:
        for one in sent:
            line.send(one)
        assert said in json.loads(line.recv())["error"]
        with pytest.raises(ConnectionClosed, match="1008"):
            line.recv()
    until(lambda: server.service._busy == 0)


def test_a_model_that_does_not_stream_says_so(run):
    from websockets.sync.client import connect

    whole = dust.load(run, overrides={"DATA.SAMPLING": "whole_clip"}, device="cpu")
    with serving(whole) as server, connect(f"ws://127.0.0.1:{server.port}/stream") as line:
        assert "--window SECONDS" in json.loads(line.recv())["error"]


def test_streams_of_other_sites_and_of_too_many(model, clips):
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    with serving(model, limits=Limits(queue=1)) as server:
        address = f"ws://127.0.0.1:{server.port}/stream"
        with pytest.raises(InvalidStatus, match="403"):
            connect(address, additional_headers=EVIL)
        with connect(address) as first:
            until(lambda: server.service._busy == 1)
            with connect(address) as second:
                assert json.loads(second.recv())["retry_after"] > 0
            first.send(message(0.0, np.zeros((20, 20, 3), np.uint8)))
        until(lambda: server.service._busy == 0)
    until(lambda: not any(one.name == "dust-live" for one in threading.enumerate()))


def test_a_decode_that_goes_past_its_time_frees_its_thread(model, clips, monkeypatch):
    """An upload of a million tiny pictures, which take ten times as long as anybody waits."""
    endless = b"YUV4MPEG2 W2 H2 F1000:1 C420\n" + (b"FRAME\n" + bytes(6)) * 1_000_000
    ended, read = [], Service._read

    def watched(service, sample):
        try:
            return read(service, sample)
        except OutOfTime:
            ended.append(sample.name)
            raise

    monkeypatch.setattr(Service, "_read", watched)
    with serving(model, limits=Limits(timeout=1.0, max_minutes=1e6), workers=1) as server:
        status, _, found = send(server.port, ("endless.y4m", endless))
        assert status == 504 and "--timeout" in found["error"]
        until(lambda: ended == ["endless.y4m"], seconds=5)
        assert send(server.port, clips / "clip_14.mp4")[0] == 200, "the one thread is free"
