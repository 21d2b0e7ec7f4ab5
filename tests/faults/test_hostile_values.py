"""JSON of strangers, each value of it replaced by absurd ones: it is read, or answered with our own error."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from dust.analysis.predictions import read_report
from dust.analysis.repeats import summarise_seeds
from dust.analysis.status import find_runs, table_of
from dust.analysis.tuning.worker import read_result
from dust.convert.annotations.json_files import read_label_studio, read_via
from dust.convert.keypoints import json_files
from dust.convert.mistakes import forms
from dust.datasets.manifest.annotation_files import read_activitynet
from dust.datasets.manifest.manifest import read_manifest
from dust.engine.calibration import read_temperature
from dust.utils.errors import DustError
from dust.utils.features import FeatureStore, FeatureWriter
from dust.utils.structured import parse_json

JOINTS = [number for joint in range(17) for number in (10 + joint, 20.5, 2)]
PLACES = [{"x": 0.1, "y": 0.2, "visibility": 0.9}] * 33
COOK = [
    {"recording_id": "1_7", "activity_id": 1, "step_annotations": [
        {"step_id": 1, "end_time": 3.5, "description": "Cut-Cut it", "errors": [{"tag": "Order Error"}]}]},
]  # fmt: skip
ABOUT = {"1_7": {"activity_name": "Egg Cup", "person_id": 3}}
GRAPH = {"steps": {"0": "START", "1": "Cut-Cut it", "2": "END"}, "edges": [[0, 1], [1, 2]]}
RUN = "results/test.json"
HEAD = "[x] json_stats: "


def _cook(folder):
    for name, value in (
        ("annotation_json/error_annotations.json", COOK),
        ("annotation_json/complete_step_annotations.json", ABOUT),
        ("task_graphs/eggcup.json", GRAPH),
    ):
        if not (folder / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(value))
    return forms.read_captaincook4d(folder)


def _of_run(folder):
    (folder / "config.yaml").write_text("TRAIN: {ENABLE: true}")
    (folder / "checkpoints").mkdir(exist_ok=True)
    return table_of(find_runs(folder), folder), summarise_seeds([folder, folder]), read_result(folder, "top1_acc")


def _of_log(folder):
    (folder / "config.yaml").write_text("TRAIN: {ENABLE: true}")
    log = folder / "stdout.log"
    log.write_text(HEAD + log.read_text())
    return table_of(find_runs(folder), folder)


def _unfinished(folder):
    FeatureWriter(folder, "train", ["a", "b"], (2,), "float32", {"made_by": "x"}, "memmap")


#: (a document as it should be, the file's name, who reads it).
DOCUMENTS: dict[str, tuple[Any, str, Any]] = {
    "label studio": (
        [{"id": 1, "data": {"video": "a.mp4"}, "annotations": [{"id": 3, "completed_by": 1, "result": [
            {"value": {"ranges": [{"start": 1, "end": 20}], "timelinelabels": ["cut"]}}]}]},
         {"id": 2, "video": "b.mp4", "annotator": 3, "tricks": [{"start": 1, "end": 2, "labels": ["z"]}]}],
        "a.json", lambda folder: read_label_studio(folder / "a.json", soft_labels=True),
    ),
    "via": (
        {"attribute": {"1": {"aname": "act", "type": 4, "options": {"0": "run"}}}, "file": {"1": {"fname": "a.mp4"}},
         "view": {"1": {"fid_list": ["1"]}}, "metadata": {"1_a": {"vid": "1", "z": [1.0, 2.0], "av": {"1": "0"}}}},
        "a.json", lambda folder: read_via(folder / "a.json"),
    ),
    "activitynet": (
        {"database": {"v": {"subset": "training", "annotations": [{"segment": [1, 2], "label": "a", "score": 0.5}]}}},
        "a.json", lambda folder: read_activitynet(folder / "a.json"),
    ),
    "egoper": (
        {"tea": {"action2idx": {"BG": 0, "pour": 1}, "actiontype2idx": {"Normal": 0, "Error_Slip": 1}, "segments": [
            {"video_id": "t1", "labels": {"time_stamp": [[0, 1.5]], "action": [1], "action_type": [1]}}]}},
        "annotation.json", forms.read_egoper,
    ),
    "captaincook4d": (COOK, "annotation_json/error_annotations.json", _cook),
    "captaincook4d's people": (ABOUT, "annotation_json/complete_step_annotations.json", _cook),
    "captaincook4d's graph": (GRAPH, "task_graphs/eggcup.json", _cook),
    "captaincook4d's splits": (
        {"train": [], "val": ["1_7"]}, "data_splits/recordings_data_split_combined.json", _cook,
    ),
    "coco": (
        {"images": [{"id": 1, "file_name": "a/1.jpg", "height": 100, "width": 200, "frame_id": 0, "video_id": 3},
                    {"id": 2, "file_name": "a/2.jpg"}],
         "annotations": [{"image_id": 1, "keypoints": JOINTS, "track_id": 1}]},
        "a.json", lambda folder: json_files.read_coco(folder / "a.json", "a"),
    ),
    "coco's results": (
        [{"image_id": 1, "keypoints": JOINTS, "track_id": 1}, {"image_id": "2.jpg", "keypoints": JOINTS, "idx": [1]}],
        "a.json", lambda folder: json_files.read_coco(folder / "a.json", "a"),
    ),
    "mmpose": (
        {"instance_info": [
            {"frame_id": 1, "instances": [{"keypoints": [[1, 2]] * 17, "keypoint_scores": [0.5] * 17}]}]},
        "a.json", lambda folder: json_files.read_coco(folder / "a.json", "a"),
    ),
    "mediapipe": (
        {"frames": [{"frame": 0, "pose_landmarks": PLACES}, [[0.1, 0.2, 0.3, 0.9]] * 33, None], "width": 9, "fps": 30},
        "a.json", lambda folder: json_files.read_mediapipe_json(folder / "a.json", "a"),
    ),
    "openpose": (
        {"people": [{"person_id": [-1], "pose_keypoints_2d": JOINTS[:51] + JOINTS[:24]}]},
        "a_000_keypoints.json", lambda folder: json_files.read_openpose([folder / "a_000_keypoints.json"], "a"),
    ),
    "report of a run": (
        {"metrics": {"top1_acc": 50.0}, "intervals": {"top1_acc": [10.0, 90.0]}, "counts": {"samples": 2},
         "data_warnings": ["x"]},
        RUN, lambda folder: (read_report(folder / RUN), _of_run(folder)),
    ),
    "log of a run": ({"_type": "val_epoch", "epoch": "1/2", "min_top1_err": 50.0, "loss": 0.5}, "stdout.log", _of_log),
    "other log of a run": ({"_type": "val_epoch", "epoch": "1/2", "map": 0.5}, "stdout.log", _of_log),
    "unfinished features": (
        {"ids": ["a", "b"], "meta": {"made_by": "x"}, "format": "memmap", "shape": [2], "dtype": "float32"},
        "train.json.partial", _unfinished,
    ),
    "unfinished features that are read": (
        {"ids": ["a"], "meta": {}}, "train.json.partial", lambda folder: FeatureStore.open(folder, "train"),
    ),
    "something-something v2": (
        [{"id": "1", "label": "x"}], "train.json",
        lambda folder: read_manifest(root=str(folder), split="train", format="ssv2", check_files=False),
    ),
    "calibration of a run": (
        {"temperature": 1.5, "checkpoint_sha256": "0" * 64},
        "results/calibration.json", lambda folder: read_temperature(folder, "0" * 64),
    ),
}  # fmt: skip
ABSURD = (
    10**400, 10**290, float("inf"), float("nan"), 2**63, -1, 1.5, True, None, [], {}, "", "\ud800", "../../x",
    "\x1b[31m\n", "9" * 5000, [[[[1]]]], [1, [2, 3], "x", None, {"a": 1}],
)  # fmt: skip


def places(document: Any, at: tuple = ()) -> Iterator[tuple]:
    """Where something stands in a document; of a list the first."""
    yield at
    pairs = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document[:1])
        if isinstance(document, list)
        else ()
    )
    for key, value in pairs:
        yield from places(value, (*at, key))


def replaced(document: Any, at: tuple, value: Any) -> Any:
    if not at:
        return value
    document = copy.deepcopy(document)
    inner = document
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return document


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numbers beyond float32
@pytest.mark.parametrize("name", DOCUMENTS)
def test_absurd_values(tmp_path, name):
    document, file, read = DOCUMENTS[name]
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)

    def asked(changed: Any) -> None:
        (tmp_path / file).write_text(json.dumps(changed))
        if file != RUN and file.startswith("results/"):
            (tmp_path / RUN).unlink(missing_ok=True)
        read(tmp_path)

    if not name.startswith("unfinished"):
        asked(document)
    for at in places(document):
        for value in ABSURD:
            try:
                asked(replaced(document, at, value))
            except DustError as error:
                assert 0 < len(str(error)) < 20_000
            except Exception as error:
                raise AssertionError(
                    f"{name}: {at} is {value!r:.40}, and that is answered with {error!r:.300}"
                ) from error


def test_the_half_of_a_character():
    assert parse_json('["\\ud83d\\ude00", "\\udcff"]', "x") == ["\U0001f600", "\udcff"], (
        "the latter is a byte of a name"
    )
    for half in ("\\ud800", "\\uD83D", "\\udc00x"):
        with pytest.raises(DustError, match="x: is not JSON"):
            parse_json(f'{{"{half}": 1}}', "x")


def test_a_whole_number_that_no_float_can_be():
    assert parse_json("1" + "0" * 299, "x") == 10**299
    for digits in (301, 5000):
        with pytest.raises(DustError, match=f"x: is not JSON .a whole number of {digits} digits"):
            parse_json("9" * digits, "x")
