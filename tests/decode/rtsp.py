"""A small RTSP server (RFC 2326) that publishes an H.264 video over its TCP connection, for tests."""

import base64
import contextlib
import socket
import struct
import threading
import time
from fractions import Fraction

import av
import numpy as np


def nal_units(frames: int, size: tuple[int, int] = (48, 64), rate: int = 25) -> list[list[bytes]]:
    """The NAL units of each frame of a small moving picture."""
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt, codec.framerate = size[1], size[0], "yuv420p", rate
    codec.time_base = Fraction(1, rate)
    codec.options = {"g": "10", "bf": "0", "tune": "zerolatency", "x264-params": "slices=1"}
    packets = []
    for number in range(frames):
        picture = np.full((*size, 3), (5 * number) % 250, np.uint8)
        packets += codec.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
    packets += codec.encode(None)
    parts = [bytes(packet).replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") for packet in packets]
    return [[unit for unit in units if unit] for units in parts]


class Publisher:
    """Serves ``rtsp://127.0.0.1:PORT/live`` in a thread; each client gets the video from its start.

    Args:
        frames: of the video.
        pace: seconds between frames.
        unplug_after: the first connection is cut after so many frames; 0: never.
    """

    def __init__(self, frames: int = 50, pace: float = 0.005, unplug_after: int = 0) -> None:
        self.units, self.pace, self.unplug_after = nal_units(frames), pace, unplug_after
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://127.0.0.1:{self.socket.getsockname()[1]}/live"
        self.clients = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.socket.accept()
                self.clients += 1
                threading.Thread(target=self._serve, args=(client, self.clients), daemon=True).start()

    def _serve(self, client: socket.socket, number: int) -> None:
        with client, contextlib.suppress(OSError):
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    more = client.recv(4096)
                    if not more:
                        return
                    data += more
                head, data = data.split(b"\r\n\r\n", 1)
                method = head.split()[0].decode()
                sequence = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"cseq")).decode()
                extra, body = "", ""
                if method == "OPTIONS":
                    extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
                elif method == "DESCRIBE":
                    body = self._description()
                    extra = f"Content-Type: application/sdp\r\nContent-Base: {self.url}/\r\n"
                elif method == "SETUP":
                    extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
                elif method == "PLAY":
                    extra = "Session: 1\r\n"
                size = f"Content-Length: {len(body)}\r\n" if body else ""
                client.sendall(f"RTSP/1.0 200 OK\r\n{sequence}\r\n{extra}{size}\r\n{body}".encode())
                if method == "PLAY":
                    self._play(client, number)
                    return

    def _description(self) -> str:
        sets = [unit for unit in self.units[0] if unit[0] & 31 in (7, 8)]
        encoded = ",".join(base64.b64encode(unit).decode() for unit in sets)
        return (
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\nc=IN IP4 0.0.0.0\r\n"
            "a=rtpmap:96 H264/90000\r\na=framerate:25\r\n"
            f"a=fmtp:96 packetization-mode=0; sprop-parameter-sets={encoded}\r\na=control:track0\r\n"
        )

    def _play(self, client: socket.socket, number: int) -> None:
        sequence = 0
        for index, units in enumerate(self.units):
            if number == 1 and self.unplug_after and index == self.unplug_after:
                return
            for place, unit in enumerate(units):
                marker = 0x80 if place == len(units) - 1 else 0
                rtp = struct.pack(">BBHII", 0x80, marker | 96, sequence & 0xFFFF, index * 3600, 1) + unit
                client.sendall(struct.pack(">BBH", 0x24, 0, len(rtp)) + rtp)
                sequence += 1
            time.sleep(self.pace)
