"""Pictures that are pushed from one side come out as frames on the other."""

import struct
import threading
from io import BytesIO

import pytest
from PIL import Image

from dust.decode.live import LiveFrames, is_live
from dust.deploy.serve import frames
from dust.deploy.serve.frames import SOURCE, PushedFrames
from dust.deploy.serve.limits import Refused


def message(seconds, value, form="PNG", size=(8, 6)):
    picture = BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(picture, form)
    return struct.pack("<d", seconds) + picture.getvalue()


def test_frames_come_out_with_their_times():
    pushed = PushedFrames()
    assert is_live(SOURCE)
    with LiveFrames(SOURCE, opener=pushed.opener, retries=0) as live:
        for number in range(6):
            pushed.push(message(5 + number / 25, 40 * number))
        pushed.end()
        found = list(live)
    assert [one.time for one in found] == pytest.approx([number / 25 for number in range(6)], abs=1e-9)
    assert [int(one.picture.to_ndarray(format="rgb24")[0, 0, 0]) for one in found] == [40 * n for n in range(6)]
    assert live.reconnected == live.dropped == 0


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_forms(form):
    frame = PushedFrames().parse(message(0.0, 200, form))
    assert (frame.width, frame.height) == (8, 6) and abs(int(frame.to_ndarray(format="rgb24")[3, 3, 0]) - 200) < 6


def test_what_is_refused(monkeypatch):
    pushed = PushedFrames()
    for wrong in (b"", b"12345678", struct.pack("<d", 0) + b"GIF89a", message(0, 1, "GIF"), message(0, 1)[:40],
                  message(-1, 1), message(float("inf"), 1)):  # fmt: skip
        with pytest.raises(Refused):
            pushed.parse(wrong)
    pushed.parse(message(1, 1))
    with pytest.raises(Refused, match="rise"):
        pushed.parse(message(1, 1))
    with pytest.raises(Refused, match="keep one size"):
        pushed.parse(message(2, 1, size=(9, 6)))
    monkeypatch.setattr(frames, "LARGEST", 10)
    with pytest.raises(Refused, match="far too many"):
        pushed.parse(message(3, 1))


def test_nobody_waits_for_who_has_left():
    pushed = PushedFrames()
    sender = threading.Thread(target=lambda: [pushed.push(message(n, 1)) for n in range(20)])
    sender.start()
    pushed.close()
    sender.join(10)
    assert not sender.is_alive() and list(pushed.decode(None)) == []
    taker = threading.Thread(target=lambda: list(other.decode(None)))
    other = PushedFrames()
    taker.start()
    other.close()
    taker.join(10)
    assert not taker.is_alive()
