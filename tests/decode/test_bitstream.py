import struct

import av
import pytest

from dust.decode import bitstream
from tests.datasets.clip_files import turned, write_clip


def packets_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        extradata = bytes(stream.codec_context.extradata or b"")
        return extradata, [(bytes(one), one.is_keyframe) for one in container.demux(stream) if one.size]


def test_numbers_of_the_bit_reader():
    reader = bitstream.BitReader(bytes([0b10100110, 0b01000010, 0b10000000]))
    assert [reader.ue() for _ in range(4)] == [0, 1, 2, 3]  # 1 010 011 00100
    assert bitstream.BitReader(bytes([0b00111000])).se() == -3
    assert bitstream.BitReader(b"\x00\x00\x03\x01").bits(24) == 1
    with pytest.raises(ValueError, match="end"):
        bitstream.BitReader(b"\x00").ue()


def test_h264_entry_points_and_fields(tmp_path):
    cases = {"closed": "", "open": ":open-gop=1", "refresh": ":intra-refresh=1", "fields": ":tff=1"}
    found = {}
    for name, more in cases.items():
        options = {"x264-params": f"keyint=15:min-keyint=15:bframes=2:scenecut=0{more}"}
        extradata, packets = packets_of(write_clip(tmp_path / f"{name}.mp4", 60, options=options))
        unit = bitstream.nal_length_size("h264", extradata)
        assert unit == 4 and all(bitstream.is_sound(data, unit) for data, _ in packets)
        found[name] = [bitstream.h264_entry_point(data, unit) for data, key in packets if key]
        assert bitstream.h264_frames_only(extradata, unit) == (name != "fields")
        assert any(bitstream.h264_disposable(data, unit) for data, _ in packets) or name == "refresh"
        assert not any(bitstream.h264_entry_point(data, unit) for data, key in packets if not key)
    assert len(found["closed"]) == len(found["open"]) == 4 and all(found["closed"]) and all(found["open"])
    assert found["refresh"][0] and not any(found["refresh"][1:])  # exact only some frames later


def test_unsound_packets(tmp_path):
    _, packets = packets_of(write_clip(tmp_path / "clip.mp4", 5, options={"bf": "0"}))
    data = packets[0][0]
    assert not bitstream.is_sound(data[:-1], 4) and not bitstream.is_sound(data + b"\x01", 4)
    middle = len(data) // 2
    assert not bitstream.is_sound(data[:middle] + bytes(40) + data[middle + 40 :], 4)
    assert not bitstream.is_sound(bytes(200), 4)
    assert bitstream.is_sound(struct.pack(">I", 60) + b"\x65\x88" + bytes(58), 4)  # padding at the end


def test_hevc_facts(tmp_path):
    try:
        path = write_clip(tmp_path / "a.mp4", 30, codec="libx265", options={"x265-params": "keyint=10:log-level=none"})
    except (av.codec.codec.UnknownCodecError, ValueError):
        pytest.skip("this PyAV cannot write HEVC")
    extradata, packets = packets_of(path)
    unit = bitstream.nal_length_size("hevc", extradata)
    facts = [bitstream.hevc_facts(data, unit) for data, _ in packets]
    assert [one[0] for one in facts] == [key for _, key in packets]
    assert not any(one[1] or one[2] for one in facts) and any(one[3] for one in facts)


def test_headers_of_files(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 10)
    assert bitstream.mp4_is_upright(str(clip))
    assert not bitstream.mp4_is_upright(str(turned(clip, tmp_path / "turned.mp4", 0, 1, -1, 0)))
    assert not bitstream.mp4_is_upright(str(tmp_path / "missing.mp4"))
    transport = write_clip(tmp_path / "clip.ts", 10)
    assert not bitstream.transport_is_cut(str(transport))
    transport.write_bytes(transport.read_bytes()[:-100])
    assert bitstream.transport_is_cut(str(transport))


def test_hidden_vp8_and_vp9_frames():
    assert bitstream.vp8_shown(b"\x10\x00") and not bitstream.vp8_shown(b"\x01\x00")
    assert bitstream.vp9_shown(bytes([0b10000010, 0])) and not bitstream.vp9_shown(bytes([0b10000000, 0]))
    assert bitstream.vp9_shown(bytes([0b10001000]))  # shows a frame decoded before
    assert bitstream.vp9_shown(bytes([0b10000000, 0, 0b11000001]))  # a superframe
