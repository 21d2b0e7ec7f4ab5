"""Keypoints of every form become point tracks and series of ours; who is who; what is refused."""

import json
import pickle
import re

import numpy as np
import pytest

from dust.cli.convert_data import main
from dust.convert.keypoints import READERS, convert_keypoints, tables
from dust.convert.keypoints.json_files import read_coco
from dust.convert.keypoints.poses import Person, Recording, choose_people, link_people
from dust.datasets.multimodal.series import read_series
from dust.datasets.tracks.files import read_tracks
from dust.datasets.tracks.manifest import read_track_manifest
from dust.datasets.tracks.skeletons import SKELETONS, find_pairs
from dust.utils.errors import ConfigError, DataError

SIZE = (100, 200)  # height, width


def body(joints=17, at=(50.0, 40.0), seed=0, scale=20.0):
    """(joints, 3): x, y, confidence 0.9; another seed is a little to the right."""
    xy = np.array(at) + np.random.RandomState(0).uniform(-scale, scale, (joints, 2)) + [seed, 0]
    return np.column_stack([xy.round(2), np.full(joints, 0.9)])


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def coco(path):
    results = [
        {"image_id": n, "category_id": 1, "keypoints": body(seed=n).ravel().tolist(), "score": 1} for n in (0, 2)
    ]
    written(path.with_suffix(".json"), results)


def openpose(path):
    for n in (0, 2):
        people = [{"person_id": [-1], "pose_keypoints_2d": body(25, seed=n).ravel().tolist()}]
        written(path / f"clip_{n:012d}_keypoints.json", {"version": 1.3, "people": people})
    written(path / "clip_000000000001_keypoints.json", {"version": 1.3, "people": []})


def mediapipe(path):
    def frame(n):
        x, y, seen = (body(33, seed=n) / [200, 100, 1]).T
        return [{"x": a, "y": b, "z": 0.0, "visibility": c} for a, b, c in zip(x, y, seen, strict=True)]

    written(path.with_suffix(".json"), {"fps": 25, "frames": [frame(0), None, {"pose_landmarks": [frame(2)]}]})


def ntu(path):
    lines = ["3"]
    for n in (0, None, 2):
        lines.append("0" if n is None else "1")
        if n is not None:
            lines += ["72057594037944338 0 1 1 1 1 0 0.02 -0.01 2", "25"]
            lines += [f"0 0 3 250 200 {x} {y} 0 0 0 0 {2 if i else 1}" for i, (x, y, _) in enumerate(body(25, seed=n))]
    folder = path.parent
    number = {"a": 1, "b": 2}[path.name]
    written(folder / f"S001C00{number}P003R002A013.skeleton", "\n".join(lines))


def table(path):
    lines = ["frame,nose_x,nose_y,nose_score,left_hand_x,left_hand_y,left_hand_score,right_hand_x,right_hand_y"]
    lines += [",".join([str(n), *map(str, body(3, seed=n).ravel()[:8])]) for n in (0, 2)]
    written(path.with_suffix(".csv"), "\n".join(lines))


def arrays(joints):
    def write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stacked = np.stack([body(joints, seed=n) for n in (0, 1, 2)])
        stacked[1] = 0
        np.savez(path.with_suffix(".npz"), keypoint=stacked[None, ..., :2], keypoint_score=stacked[None, ..., 2])

    return write


WRITERS = {
    "coco": (coco, SKELETONS["coco"]),
    "openpose": (openpose, SKELETONS["openpose25"]),
    "mediapipe": (mediapipe, SKELETONS["mediapipe"]),
    "ntu": (ntu, SKELETONS["ntu"]),
    "csv": (table, ("nose", "left_hand", "right_hand")),
    "h36m": (arrays(17), SKELETONS["h36m"]),
    "pyskl": (arrays(17), SKELETONS["coco"]),
}


def test_every_form_is_tried():
    assert WRITERS.keys() == READERS.keys()


@pytest.mark.parametrize("form", WRITERS)
def test_a_form_becomes_tracks_with_names_and_pairs(form, tmp_path):
    write, names = WRITERS[form]
    for label in ("wave", "sit"):
        write(tmp_path / "poses" / "train" / label / ("a" if form != "ntu" or label == "wave" else "b"))
    result = convert_keypoints(form, tmp_path / "poses", tmp_path / "out", size=SIZE)
    if form == "ntu":  # one person and action before two cameras
        assert (result.classes, result.views, result.counts) == (["A013"], 2, {"train": 1})
    else:
        assert (result.classes, result.views, result.counts) == (["sit", "wave"], 1, {"train": 2})
    clip = read_track_manifest(root=str(tmp_path / "out"), split="train").clips[0]
    tracks = read_tracks(clip.path)
    assert tracks.names == names and tracks.size == ((1080, 1920) if form == "ntu" else SIZE)
    for left, right in tracks.pairs:
        assert {names[left].replace("left", "right"), names[right].replace("left", "right")} <= {*names}
        assert names[left].replace("left", "right") == names[right].replace("left", "right") and left != right
    assert len(tracks.pairs) == sum("left" in name for name in names)
    assert tracks.visible.all(axis=1).tolist() == [True, False, True] and not tracks.visible[1].any()
    for n in (0, 2):
        np.testing.assert_allclose(tracks.xy[n], body(len(names), seed=n)[:, :2], atol=1e-4)
    assert tracks.fps == {"ntu": 30.0, "mediapipe": 25.0}.get(form, 0.0)


def test_coco_annotations_say_their_frames_by_their_images(tmp_path):
    images = [
        {"id": 900 - n, "file_name": f"{folder}/{n}.jpg", "height": 100, "width": 200}
        for folder in ("a", "b")
        for n in (9, 10)
    ]
    images[2]["id"], images[3]["id"] = 1, 2
    half_seen = body()
    half_seen[:, 2] = [2] * 16 + [1]
    document = {
        "images": images,
        "annotations": [
            {"image_id": 890, "keypoints": half_seen.ravel().tolist()},
            {"image_id": 1, "keypoints": half_seen.ravel().tolist()},
        ],
        "categories": [{"keypoints": [f"k{n}" for n in range(17)]}],
    }
    written(tmp_path / "all.json", document)
    written(tmp_path / "labels.csv", "clip,label,split\nall/a,walk,train\nall/b,run,test\n")
    convert_keypoints(
        "coco", tmp_path / "all.json", tmp_path / "out", labels=str(tmp_path / "labels.csv"), threshold=0.5
    )
    a = read_tracks(read_track_manifest(root=str(tmp_path / "out"), split="train").clips[0].path)
    assert a.size == SIZE and a.names[0] == "k0"
    assert a.visible.tolist() == [[False] * 17, [True] * 16 + [False]]  # only picture 10 of folder a shows anybody


@pytest.mark.parametrize("kind", ["instances", "people", "skeleton"])
def test_lists_of_frames(tmp_path, kind):
    def frame(n):
        x, y, seen = body(18 if kind == "skeleton" else 17, seed=n).T
        if kind == "instances":
            one = {"keypoints": np.stack([x, y], axis=1).tolist(), "keypoint_scores": seen.tolist()}
            return {"frame_id": n, "instances": [one]}
        if kind == "people":
            return {"people": [{"pose_keypoints_2d": np.stack([x, y, seen], axis=1).ravel().tolist()}]}
        pose = np.stack([x / 200, y / 100], axis=1).ravel().round(6).tolist()
        return {"frame_index": n, "skeleton": [{"pose": pose, "score": seen.tolist()}]}

    frames = [frame(n) for n in range(3)]
    document = {"data": frames, "label": "wave"} if kind == "skeleton" else {"instance_info": frames}
    written(tmp_path / "poses" / "wave" / "a.json", frames if kind == "people" else document)
    assert convert_keypoints("coco", tmp_path / "poses", tmp_path / "out", size=SIZE).classes == ["wave"]
    (file,) = (tmp_path / "out" / "tracks").iterdir()
    tracks = read_tracks(file)
    assert tracks.visible.all()
    np.testing.assert_allclose(tracks.xy[2], body(tracks.xy.shape[1], seed=2)[:, :2], atol=1e-3)


def test_results_without_an_order_in_time_are_refused(tmp_path):
    results = [{"image_id": n, "keypoints": body().ravel().tolist()} for n in (17, 397133, 37777)]
    written(tmp_path / "a.json", results)
    with pytest.raises(DataError, match="no numbers of frames"):
        convert_keypoints("coco", tmp_path / "a.json", tmp_path / "out", size=SIZE)


def test_cameras_are_views_and_frames_stay_together(tmp_path):
    for camera, frames in ((3, (2, 3)), (7, (0, 3, 4))):
        results = [{"image_id": n, "keypoints": body(seed=n).ravel().tolist()} for n in frames]
        written(tmp_path / "poses" / "walk" / f"0001_cam{camera}.json", results)
    result = convert_keypoints("coco", tmp_path / "poses", tmp_path / "out", size=SIZE)
    assert result.views == 2 and "3 is view 0" in result.notes[0]
    rows = (tmp_path / "out" / "tracks.csv").read_text().splitlines()[1:]
    assert [row.split(",")[:3] for row in rows] == [["walk/0001", "0", "walk"], ["walk/0001", "1", "walk"]]
    first, second = (read_tracks(tmp_path / "out" / row.split(",")[3]) for row in rows)
    assert first.visible.any(axis=1).tolist() == [False, False, True, True, False]
    assert second.visible.any(axis=1).tolist() == [True, False, False, True, True]
    np.testing.assert_array_equal(first.xy[3], second.xy[3])


def test_a_series_has_x_and_y_of_each_joint_as_channels(tmp_path):
    for split in ("train", "val"):
        mediapipe(tmp_path / "poses" / split / "wave" / split)
    argv = [
        "keypoints",
        str(tmp_path / "poses"),
        "--form",
        "mediapipe",
        "--out",
        str(tmp_path / "out"),
        "--as",
        "series",
    ]
    assert main([*argv, "--size", "100,200"]) in (0, None)
    rows = (tmp_path / "out" / "manifest.csv").read_text().splitlines()
    assert rows[0] == "id,label,series,split,group" and len(rows) == 3
    series = read_series(str(tmp_path / "out" / rows[1].split(",")[2]), 66)
    assert series.values.shape == (66, 3) and np.isnan(series.values[:, 1]).all()
    np.testing.assert_allclose(series.times, [0, 0.04, 0.08])
    names = (tmp_path / "out" / "channels.csv").read_text().splitlines()
    channel = int(next(line for line in names if line.endswith(",left_wrist_y")).split(",")[0])
    y = body(33, seed=2)[SKELETONS["mediapipe"].index("left_wrist"), 1]
    assert series.values[channel, 2] == pytest.approx(2 * y / 100 - 1, abs=1e-5)


# ------------------------------------------------------------------------------------------------- who is who


def crossing(ids=("", "")):
    """Two people who walk past each other, in an order that changes; one is away in frame 4."""
    frames = []
    for n in range(9):
        a, b = body(at=(20 + 5 * n, 50), scale=5), body(at=(60 - 5 * n, 53), seed=1, scale=8)
        people = [Person(a, ids[0]), Person(b, ids[1])]
        frames.append((people if n % 2 else people[::-1])[: 1 if n == 4 else 2])
    return frames


def test_people_are_followed_where_they_walk_past_each_other():
    large, small = sorted(link_people(crossing(), 0.3), key=lambda track: -np.ptp(track[0][:, 0]))
    assert sorted(small) == [0, 1, 2, 3, 5, 6, 7, 8] and sorted(large) == list(range(9))
    assert all(abs(joints[:, 0].mean() - body(at=(60 - 5 * n, 53), seed=1, scale=8)[:, 0].mean()) < 1e-9
               for n, joints in large.items())  # fmt: skip
    by_id = link_people(crossing(("x", "y")), 0.3)
    assert sorted(map(len, by_id)) == [8, 9]


def test_who_comes_from_elsewhere_is_somebody_else():
    frames = [[Person(body(at=(20, 50), scale=5))], [Person(body(at=(180, 50), scale=5))]]
    assert len(link_people(frames, 0.3)) == 2


def test_one_person_of_whom_little_is_seen_stays_one(tmp_path):
    """A single joint has no size; and numbers as spreadsheets and pandas write them."""
    text = "frame;hand_x;hand_y;foot_x;foot_y\n0.0;10,5;20;;\n1.0;12;20;70;90\n2.0;;;70,5;90\n"
    path = tmp_path / "wave" / "a.csv"
    path.parent.mkdir()
    path.write_text(text)
    result = convert_keypoints("csv", tmp_path, tmp_path / "out", size=(100, 200))
    assert result.notes == []
    with np.load(tmp_path / "out" / "tracks" / "wave_a_view_0.npz") as found:
        assert found["visibility"].tolist() == [[True, False], [True, True], [False, True]]
        assert found["tracks"][0, 0].tolist() == [10.5, 20.0]


def test_the_largest_or_the_most_visible_people_are_kept():
    far = body(scale=3)
    near = body(scale=20)
    near[5:, 2] = 0.1
    tracks = [{0: far, 1: far}, {0: near, 1: near}]
    assert choose_people(tracks, 1, "largest", 0.3)[0] is tracks[1]
    assert choose_people(tracks, 1, "visible", 0.3)[0] is tracks[0]
    assert len(choose_people(tracks, 5, "visible", 0.3)) == 2


def test_several_people_have_their_own_names_and_pairs(tmp_path):
    results = [
        {"image_id": n, "keypoints": body(at=at, seed=seed).ravel().tolist()}
        for n in range(3)
        for seed, at in ((1, (40, 50)), (2, (150, 50)))
    ]
    written(tmp_path / "a" / "walk" / "x.json", results)
    convert_keypoints("coco", tmp_path / "a", tmp_path / "out", size=SIZE, people=2)
    tracks = read_tracks(tmp_path / "out" / "tracks" / "walk_x_view_0.npz")
    assert tracks.names[17] == "2:nose" and len(tracks.pairs) == 16 and tracks.visible.all()
    assert set(tracks.pairs[:8].ravel()) == set(range(1, 17))
    np.testing.assert_array_equal(tracks.pairs, find_pairs(tracks.names))


# --------------------------------------------------------------------------------------------- what is refused


def test_a_dictionary_in_a_pickle_is_refused_and_an_array_is_read(tmp_path):
    array = np.stack([body(seed=n) for n in range(3)])[None]
    for name, value in {"array": array, "dictionary": {"annotations": [{"keypoint": array}]}}.items():
        path = tmp_path / name / "walk" / "a.pkl"
        path.parent.mkdir(parents=True)
        path.write_bytes(pickle.dumps(value))
    convert_keypoints("pyskl", tmp_path / "array", tmp_path / "out", size=SIZE)
    assert read_tracks(tmp_path / "out" / "tracks" / "walk_a_view_0.npz").names == SKELETONS["coco"]
    with pytest.raises(DataError, match=r"a\.pkl: holds .*numpy\.savez"):
        convert_keypoints("pyskl", tmp_path / "dictionary", tmp_path / "more", size=SIZE)


def test_positions_in_space_are_drawn_on_the_plane_that_is_given(tmp_path):
    space = np.random.RandomState(0).normal(size=(1, 17, 3)) * 500 + np.arange(4)[:, None, None]
    np.save(tmp_path / "a.npy", space)
    with pytest.raises(DataError, match="--plane x,-z"):
        convert_keypoints("h36m", tmp_path / "a.npy", tmp_path / "out", size=SIZE)
    for plane in ("x", "x,-x", "x,w"):
        with pytest.raises(ConfigError, match="--plane"):
            convert_keypoints("h36m", tmp_path / "a.npy", tmp_path / "out", plane=plane)
    convert_keypoints("h36m", tmp_path / "a.npy", tmp_path / "out", plane="y,-z")
    tracks = read_tracks(tmp_path / "out" / "tracks" / "a_view_0.npz")
    assert tracks.visible.all() and tracks.size == (1000, 1000) and (tracks.xy >= 50 - 1e-3).all()
    wide = max(np.ptp(space[..., 1]), np.ptp(space[..., 2]))
    expected = np.stack([space[..., 1], -space[..., 2]], axis=-1) * 900 / wide
    moved = tracks.xy - expected  # one shift for all
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0, 0], moved.shape), atol=1e-3)


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    coco(tmp_path / "poses" / "walk" / "a")
    written(tmp_path / "poses" / "walk" / "b.json", [{"image_id": 0, "keypoints": [1, 2, 3]}])
    written(tmp_path / "poses" / "walk" / "c.json", [])
    written(tmp_path / "poses" / "walk" / "d.json", "{")
    with pytest.raises(DataError) as error:
        convert_keypoints("coco", tmp_path / "poses", tmp_path / "out", size=SIZE)
    for text in ("1 joints, of no skeleton", "nobody is in it", "is not JSON"):
        assert text in str(error.value)
    (tmp_path / "good").mkdir()
    coco(tmp_path / "good" / "a")
    with pytest.raises(DataError, match="--size HEIGHT,WIDTH"):
        convert_keypoints("coco", tmp_path / "good", tmp_path / "out")
    with pytest.raises(DataError, match="x and y seem swapped|outside of the frame"):
        convert_keypoints("coco", tmp_path / "good", tmp_path / "out", size=(20, 20))
    with pytest.raises(ConfigError, match=r"--people 0.*--view-regex"):
        convert_keypoints("coco", tmp_path / "good", tmp_path / "out", people=0, view_regex="cam")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("broken", [None, [], "x", {"a": 1}, 5])
def test_people_without_numbers_are_said(tmp_path, broken):
    written(tmp_path / "a.json", [{"image_id": 0, "keypoints": broken}])
    with pytest.raises(DataError, match="result 0"):
        read_coco(tmp_path / "a.json", "a")


def test_odd_tables_of_categories_and_images(tmp_path):
    person = {"image_id": [1], "keypoints": [1.0, 2.0, 2] * 17}
    odd = {"images": [{"id": [1], "file_name": "a.jpg"}], "categories": [{"keypoints": 5}], "annotations": [person]}
    (one,) = read_coco(written(tmp_path / "a.json", odd), "a")
    assert len(one.names) == 17


def test_cameras_of_one_recording_stay_together_whoever_says_their_numbers():
    found = []
    for view in (None, 7):
        one = Recording("train/wave/0001_cam2", (), view=view)
        one.split_name(re.compile(r"cam(\d+)"))
        found.append((one.sample, one.view))
    assert found[0][0] == found[1][0] and [view for _, view in found] == [2, 7]


def test_tables_of_deeplabcut_and_sleap_are_read_as_the_plain_one(tmp_path):
    """Two animals, of whom the second is not there in frame 0, and a joint that was not seen."""
    plain = "frame,person,nose_x,nose_y,nose_confidence,tail_x,tail_y,tail_confidence\n"
    rows = ["0,a,10,20,0.9,11,21,0.8", "4,a,12,22,0.9,,,", "4,b,50,60,0.7,51,61,0.6"]
    sleap = "track,frame_idx,instance.score,nose.x,nose.y,nose.score,tail.x,tail.y,tail.score\n"
    moved = [",".join([(cells := row.split(","))[1], cells[0], "0.5", *cells[2:]]) for row in rows]
    parts = ["nose"] * 3 + ["tail"] * 3
    head = {"scorer": ["net"] * 12, "individuals": ["a"] * 6 + ["b"] * 6, "bodyparts": parts * 2,
            "coords": ["x", "y", "likelihood"] * 4}  # fmt: skip
    lines = [",".join([name, *cells]) for name, cells in head.items()]
    lines += ["0,10,20,0.9,11,21,0.8,,,,,,", "4,12,22,0.9,,,,50,60,0.7,51,61,0.6"]
    texts = {"plain": plain + "\n".join(rows), "sleap": sleap + "\n".join(moved), "deeplabcut": "\n".join(lines)}
    found = {}
    for name, text in texts.items():
        written(tmp_path / f"{name}.csv", text)
        (one,) = tables.read_csv(tmp_path / f"{name}.csv", "x")
        found[name] = {
            at: [(person.id, person.joints.tolist()) for person in people] for at, people in one.frames.items()
        }
        assert one.names == ("nose", "tail") and list(one.frames) == [0, 4]
    assert found["plain"] == found["sleap"] == found["deeplabcut"] and [
        len(one) for one in found["plain"].values()
    ] == [1, 2]


def test_deeplabcuts_rows_have_the_columns_of_its_header_and_empty_frames_stay(tmp_path):
    head = "scorer,net,net,net\nbodyparts,nose,nose,nose\ncoords,x,y,likelihood\n"
    written(tmp_path / "a.csv", head + "0,1,2,0.9\n1,,,\n")
    (one,) = tables.read_csv(tmp_path / "a.csv", "x")
    assert list(one.frames) == [0, 1] and not one.frames[1][0].joints.any()
    for row in ("1,3", "1,3,4,0.9,5"):
        written(tmp_path / "a.csv", f"{head}0,1,2,0.9\n{row}\n")
        with pytest.raises(DataError, match="not the 4 columns of the header"):
            tables.read_csv(tmp_path / "a.csv", "x")


@pytest.mark.parametrize(
    ("header", "says"), [("frame_at,nose_x,nose_y", "say the frame"), ("player,nose_x,nose_y", "say the person")]
)
def test_columns_that_may_say_whose_a_row_is_are_refused(tmp_path, header, says):
    written(tmp_path / "a.csv", f"{header}\n0,1,2\n5,3,4\n")
    with pytest.raises(DataError, match=says):
        tables.read_csv(tmp_path / "a.csv", "x")
    written(tmp_path / "a.csv", f"{header}\n5,1,2\n5,3,4\n")  # says nothing
    assert len(tables.read_csv(tmp_path / "a.csv", "x")[0].frames) == 2
