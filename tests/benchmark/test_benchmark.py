"""The benchmark's figures have the right names, signs and, where something else knows them, values. No times."""

import json
import signal
import subprocess
import sys
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from dust.benchmark import model
from dust.benchmark.clips import Peer, Protocol, find_videos, peer_by_frames
from dust.benchmark.cost import cpu_seconds, peak_rss_mib, rss_mib
from dust.benchmark.decode import benchmark_decode, read_views
from dust.benchmark.device import one_device, peak_flops
from dust.benchmark.floor import decode_only
from dust.benchmark.model import ModelRun, benchmark_model, count_flops, in_own_process, random_batch
from dust.benchmark.report import Report, save_json, table
from dust.config import load_config
from dust.decode.container import discard_others, open_stream, packets
from dust.decode.reader import VideoReader
from dust.models import build_model
from dust.tasks import build_task
from dust.tasks.task import DataInfo
from dust.utils.errors import DataError, DustError
from tests.benchmark.commands import CFG, TINY, main, positive, run_tool
from tests.helpers import ROOT, VIDEOS, needs_videos

PROTOCOL = Protocol(frames=4, rate=2, crop=32, short=(36, 44), num_clips=2, num_crops=3)


# --- the four commands ------------------------------------------------------------------------------------------


def test_loader_command(data, tmp_path, capsys):
    words = ["loader", "--cfg", CFG, "--batches", "5", "--warmup", "1", "DATA.PATH_TO_DATA_DIR", str(data)]
    result, text = run_tool(tmp_path, capsys, *words, "MODEL.NUM_CLASSES", "2", *TINY)
    (row,) = result["figures"]
    # a split of 4 clips has 2 batches of 2, so 5 batches take three epochs
    assert row["clips"] == 10 and row["bad_clips"] == 0 and row["workers"] == 0
    assert row["batch_mib"] == 2 * 3 * 4 * 32 * 32 / 2**20 and row["as_float32_mib"] == 4 * row["batch_mib"]
    positive(row, "clips_per_s", "cpu_ms_per_clip", "main_cpu_ms_per_clip", "batch_ms", "dataset_ready_s")
    assert row["main_cpu_ms_per_clip"] <= row["cpu_ms_per_clip"]
    assert result["command"].startswith("dust benchmark loader --cfg")
    assert result["machine"]["cores"] >= 1 and result["machine"]["torch"] == torch.__version__
    assert result["machine"]["cpu"] and result["date"] and result["method"]
    assert "clips_per_s" in text and result["machine"]["cpu"] in text


def test_the_loader_counts_its_workers_cpu(data, tmp_path, capsys):
    words = ["loader", "--cfg", CFG, "--batches", "4", "--warmup", "1", "DATA.PATH_TO_DATA_DIR", str(data)]
    words += ["MODEL.NUM_CLASSES", "2", *TINY, "DATA_LOADER.NUM_WORKERS", "1"]
    (row,) = run_tool(tmp_path, capsys, *words)[0]["figures"]
    assert row["clips"] == 8 and row["workers"] == 1
    positive(row, "clips_per_s", "cpu_ms_per_clip")


def test_decode_command(data, tmp_path, capsys):
    words = ["decode", "--videos", str(data / "train.csv"), "--rounds", "2", "--frames", "4", "--rate", "2"]
    words += ["--crop", "32", "--short", "36", "44", "--views", "2x3"]
    result, _ = run_tool(tmp_path, capsys, *words)
    readers = [(row["what"], row["reader"]) for row in result["figures"]]
    assert readers == [
        ("train clip", "dust"),
        ("train clip", "dust, no index yet"),
        ("train clip", "decode only"),
        ("2x3 test", "dust"),
        ("2x3 test", "dust + normalise"),
        ("2x3 test", "decode only"),
    ]
    for row in result["figures"]:
        positive(row, "cpu_ms", "wall_ms", "cpu_over_dust")
        assert row["videos"] == 4
    assert result["figures"][0]["cpu_over_dust"] == 1
    assert "interleav" in result["method"] or "one after the other" in result["method"]


def test_model_command(tmp_path, capsys):
    words = ["model", "--cfg", CFG, *TINY, "--steps", "2", "--threads", "1", "--device", "cpu"]
    result, text = run_tool(tmp_path, capsys, *words, "--optimizer")
    (row,) = result["figures"]
    positive(row, "step_s", "forward_s", "backward_s", "cpu_s", "peak_mib", "clips_per_s", "params_m", "gflop_per_clip")
    assert row["peak_mib"] > row["above_mib"] >= 0
    assert row["step_ratio"] == 1 and "mfu_percent" not in row
    assert result["settings"]["clip"] == "3x4x32x32" and result["settings"]["mode"] == "train"
    assert result["notes"] == ["no CUDA device: MFU is left out"] and "MFU is left out" in text


def test_test_command(data, tmp_path, capsys):
    cfg = load_config(CFG, [*TINY, "MODEL.NUM_CLASSES", "2"])
    torch.save({"model_state": build_model(cfg).state_dict(), "epoch": 0}, tmp_path / "weights.pyth")
    words = ["test", "--cfg", CFG, "--checkpoint", str(tmp_path / "weights.pyth"), "--device", "cpu"]
    words += ["DATA.PATH_TO_DATA_DIR", str(data), "MODEL.NUM_CLASSES", "2", *TINY, "TEST.NUM_SPATIAL_CROPS", "3"]
    result, _ = run_tool(tmp_path, capsys, *words)
    parts = {row["part"]: row for row in result["figures"]}
    assert set(parts) == {"data", "model", "total"}
    for row in parts.values():
        positive(row, "s_per_video", "cpu_s_per_video")
    assert parts["data"]["s_per_video"] + parts["model"]["s_per_video"] == pytest.approx(parts["total"]["s_per_video"])
    assert result["settings"]["videos"] == 2 and result["settings"]["views_per_video"] == 6
    limited, _ = run_tool(tmp_path, capsys, *words, "--limit", "1")
    assert limited["settings"]["videos"] == 1


@pytest.mark.parametrize(
    "words, message",
    [
        (["decode", "--videos", "no/such/clip.mp4"], "no/such/clip.mp4"),
        (["decode", "--videos", CFG, "--views", "3"], "--views 3"),
        (["model", "--cfg", CFG, "--batch", "0"], "--batch 0"),
        (["model", "--cfg", CFG, "--variant", "MODEL.ACT_CHECKPONT True"], "MODEL.ACT_CHECKPOINT"),
        (["model", "--cfg", CFG, "MODEL.NUM_CLASSES"], "MODEL.NUM_CLASSES"),
        (["test", "--cfg", CFG, "--checkpoint", "no/such.pyth"], "no/such.pyth"),
    ],
)
def test_bad_input_is_told(capsys, words, message):
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["model", "--cfg", CFG, "--bach", "3"], ["decode", "--videos", "x", "--rounds", "1", "KEY", "1"]]
)
def test_unknown_options_are_refused(words):
    with pytest.raises(SystemExit):
        main(words)


# --- decoding -----------------------------------------------------------------------------------------------------


def test_readers_are_asked_for_the_same_and_failures_are_told(data):
    videos = find_videos([str(data / "videos")])
    asked = []

    def read(path, numbers, size):
        asked.append((path, list(numbers), size))
        with VideoReader(path) as reader:
            return reader.frames(numbers, size=size)

    def broken(path, view):
        raise RuntimeError(f"cannot do {path}")

    peers = [peer_by_frames("by frames", read), Peer("broken", train=broken)]
    report = benchmark_decode(videos, PROTOCOL, rounds=1, peers=peers)
    rows = {(row["what"], row["reader"]): row for row in report.figures}
    assert rows["train clip", "by frames"]["videos"] == len(videos) == 8
    assert ("train clip", "broken") not in rows and ("2x3 test", "broken") not in rows
    assert sum("broken" in note for note in report.notes) == 8
    # the first video is taken once more, before the rounds
    assert len(asked) == 2 * (len(videos) + 1)
    train = [numbers for _, numbers, _ in asked if len(numbers) == 4]
    assert len({tuple(numbers) for numbers in train}) > 1, "every clip begins somewhere else"


def test_what_peers_are_cut_to_is_what_dust_gives(data):
    """A peer that scales like dust gives the same views, in the same order."""
    (path, *_) = find_videos([str(data / "videos")])
    with VideoReader(path) as reader:
        views = PROTOCOL.test_views(len(reader), reader.fps, reader.height, reader.width)

    def read(path, numbers, size):
        with VideoReader(path) as reader:
            return reader.frames(numbers, size=size)

    peer = peer_by_frames("dust by frames", read)
    np.testing.assert_array_equal(peer.test(path, views), read_views(path, views))
    np.testing.assert_array_equal(peer.train(path, views[1]), read_views(path, views[1:])[0])
    assert read_views(path, views).shape == (6, 4, 32, 32, 3)


def all_packets(path):
    container, stream = open_stream(path)
    discard_others(container, stream)
    count = sum(1 for _ in packets(container, stream))
    container.close()
    return count


def test_the_floor_decodes_what_must_be_decoded(data):
    (path, *_) = find_videos([str(data / "videos")])  # 24 frames, key frames at 0 and 16, each refers to the one before
    assert decode_only(path, [0]) == 1
    assert decode_only(path, [3, 1]) == 4
    assert decode_only(path, [16]) == 1
    assert decode_only(path, [2, 18]) == 3 + 3
    assert decode_only(path, range(24)) == 24 == all_packets(path)


@needs_videos
@pytest.mark.parametrize(
    "name", ["k400like/mma_demo_g250.mp4", "k400like/iio_cockatoo_g12.mp4", "mma_test.avi", "tc_h265_video.mp4"]
)
def test_the_floor_of_real_files_gives_every_wanted_frame(name):
    path = str(VIDEOS / name)
    with VideoReader(path) as reader:
        wanted = np.unique(np.linspace(len(reader) // 2, len(reader) - 1, 5).astype(int)).tolist()
    assert len(wanted) <= decode_only(path, wanted) <= all_packets(path)


def test_damaged_and_missing_videos_are_refused(data, tmp_path):
    whole = (data / "videos" / "right_0000.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DustError, match=r"cut\.mp4"):
        benchmark_decode(find_videos([str(tmp_path)]), PROTOCOL, rounds=1)
    (tmp_path / "list.csv").write_text("path,label\ngone.mp4,0\n")
    with pytest.raises(DataError, match=r"gone\.mp4"):
        find_videos([str(tmp_path / "list.csv")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no video"):
        find_videos([str(tmp_path / "empty")])


# --- models -------------------------------------------------------------------------------------------------------


def test_flops_are_those_of_the_formula():
    """ViT-B/16, 8 x 224 x 224, divided attention: 196 GMAC by the matrices' sizes (2 FLOP each)."""
    cfg = load_config(str(ROOT / "configs" / "Kinetics" / "TimeSformer_divST_8x32_224.yaml"))
    with torch.device("meta"):
        timesformer = build_model(cfg)
    T, N, D, K = 8, 196, 768, 400
    linears = T * N * D * (3 * D + D + D)  # temporal qkv, proj, temporal_fc
    linears += T * (N + 1) * D * (3 * D + D)  # spatial qkv, proj
    linears += (1 + N * T) * 2 * D * 4 * D  # mlp
    attention = N * 2 * T * T * D + T * 2 * (N + 1) ** 2 * D
    macs = T * N * 3 * 16 * 16 * D + 12 * (linears + attention) + D * K
    task = build_task(cfg, DataInfo([str(i) for i in range(K)]))
    batch = random_batch(cfg, 1, torch.device("cpu"))
    assert count_flops(timesformer, task, batch["inputs"]) == 2 * macs
    assert macs == pytest.approx(196.05e9, rel=2e-3)


def test_variants_are_measured_beside_the_configuration(monkeypatch):
    monkeypatch.setattr(model, "in_own_process", lambda function, argument: function(argument))
    run = ModelRun(CFG, tuple(TINY), steps=1, warmup=0, train=False, device="cpu")
    deeper = "TIMESFORMER.DEPTH 2"
    first, second = benchmark_model(run, variants=[deeper]).figures
    assert (first["variant"], second["variant"]) == ("as configured", deeper)
    assert "backward_s" not in first and second["params_m"] > first["params_m"]
    assert second["gflop_per_clip"] > first["gflop_per_clip"]
    positive(second, "step_ratio", "cpu_ratio")


ALLOCATE = """
from dust.benchmark.cost import peak_rss_mib, rss_mib
before, size = rss_mib(), len(bytearray(64 << 20))
print(before, peak_rss_mib())
"""


def test_peak_memory_is_the_process_s_own():
    ballast = np.ones(300 * 2**17)  # 300 MiB here must not show there, as they do in the child's ru_maxrss
    shown = subprocess.run(
        [sys.executable, "-c", ALLOCATE], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    before, peak = map(float, shown.split())
    assert 63 <= peak - before <= 100
    assert peak_rss_mib() >= rss_mib() - 1 >= 300 and ballast[0]


def test_errors_of_the_own_process_come_through(monkeypatch):
    with pytest.raises(DustError, match=r"no-such\.yaml"):
        in_own_process(load_config, "no-such.yaml")
    monkeypatch.setattr(model, "get_context", lambda method: get_context("fork"))  # the others need no new interpreter
    with pytest.raises(RuntimeError, match="exit code 1"):
        in_own_process(int, "not a number")
    with pytest.raises(DustError, match="SIGKILL"):
        in_own_process(signal.raise_signal, signal.SIGKILL)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(DustError, match="tpu"):
        one_device(load_config(CFG), "tpu")


def test_cpu_seconds_go_forward():
    main, children = cpu_seconds()
    sum(range(10**6))
    later_main, later_children = cpu_seconds()
    assert later_main > main and later_children >= children


@pytest.mark.parametrize(
    "name, dtype, tflops",
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989),
        ("NVIDIA H100 PCIe", torch.float16, 756),
        ("NVIDIA H200", torch.bfloat16, 989),
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312),
        ("Tesla V100-SXM2-32GB", torch.float16, 125),
        ("Tesla V100-PCIE-16GB", torch.float16, 112),
        ("Tesla V100-SXM2-32GB", torch.bfloat16, None),
        ("Tesla T4", torch.float16, 65),
        ("NVIDIA L4", torch.bfloat16, 121),
        ("NVIDIA L40S", torch.bfloat16, 362),
        ("NVIDIA GeForce RTX 4090", torch.float16, 165.2),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", torch.float16, None),
        ("NVIDIA T400", torch.float16, None),
        ("Some Future Device", torch.bfloat16, None),
    ],
)
def test_peaks_by_device_name(name, dtype, tflops):
    peak = peak_flops(name, dtype)
    assert peak == (None if tflops is None else pytest.approx(tflops * 1e12))


# --- the report ---------------------------------------------------------------------------------------------------


def test_table_shows_every_column_and_gaps():
    rows = [{"name": "a", "cpu_ms": 12.345, "n": 3}, {"name": "longer", "cpu_ms": 12345.6, "only": "x"}]
    assert table(rows) == ["name    cpu_ms  n  only", "a         12.3  3     -", "longer   12346  -     x"]


def test_json_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(DustError, match="no/such/folder"):
        save_json(tmp_path / "no/such/folder" / "x.json", {})
    report = Report("loader", "how", [{"a": 1.5}], ["note one"], {"size": 2})
    save_json(tmp_path / "x.json", report.as_dict([sys.executable, "x"]))
    assert json.loads((tmp_path / "x.json").read_text())["figures"] == [{"a": 1.5}]
    assert "note one" in report.text() and "size 2" in report.text()
    assert list(tmp_path.glob(".*")) == []
