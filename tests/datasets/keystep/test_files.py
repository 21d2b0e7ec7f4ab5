"""Recordings on disk: our format round trip, the public layouts, and every problem with its file and line."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dust.datasets.keystep.files import ProcedureData, Recording, count_frames, read_own, steps_of_states, write_own
from dust.datasets.keystep.layouts import INDUSTREAL_STATES, detect_layout, read_object_states, read_procedures
from dust.decode import clip
from dust.procedure.table import state_vectors
from dust.synthetic.motion import write_video
from dust.utils.errors import DataError, Problems
from tests.helpers import golden_json

INDUSTREAL = golden_json("psr_procedure")


def table(count, expected=True):
    names = ("Install", "Incorrectly installed", "Remove")
    return [
        {
            "id": i,
            "description": f"{names[i % 3]} part {i // 3}",
            "install": i % 3 != 2,
            "state_idx": i // 3,
            "expected_in_assy": expected,
        }
        for i in range(3 * count)
    ]


def pictures(folder, numbers, digits=6):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.new("RGB", (16, 16)).save(folder / f"{number:0{digits}d}.jpg")


@pytest.fixture
def own(tmp_path):
    """Two train recordings, one a folder of pictures and one a video, and a test recording, in our format."""
    pictures(tmp_path / "frames", range(1, 13))
    for name in ("b.mp4", "c.mp4"):
        write_video(tmp_path / name, np.zeros((20, 16, 16, 3), np.uint8), fps=10)
    states = ((0, (0, 0)), (3, (1, 0)), (7, (1, -1)), (9, (1, 1)), (11, (0, 1)))
    steps = ((3, 0), (9, 3), (11, 2))
    train = [
        Recording("a", str(tmp_path / "frames"), 12.0, states=states, steps=steps, num_frames=12),
        Recording("b", str(tmp_path / "b.mp4"), states=((0, (0, 0)),), num_frames=20),
    ]
    test = [Recording("c", str(tmp_path / "c.mp4"), states=((0, (0, 0)), (19, (0, 1))), steps=((19, 3),))]
    data = ProcedureData(train, ["lid", "wheel"], table(2), {"assy": "00"}, "", ["background", "00", "10"])
    write_own(tmp_path, {"train": data, "test": replace(data, recordings=test)})
    return tmp_path, data


def test_our_format_comes_back(own):
    folder, data = own
    assert detect_layout(folder) == "own"
    read = read_procedures(folder, "train")
    assert read.recordings == [data.recordings[0], replace(data.recordings[1], fps=10.0)]
    assert read == replace(data, recordings=read.recordings, source=str(folder))
    assert [one.id for one in read_own(folder, "test").recordings] == ["c"]
    assert read.procedure("assy").num_components == 2
    assert not (folder / "recordings.csv").read_text().count(str(folder)), "paths inside are relative"


def test_steps_follow_from_states_where_there_is_no_file(own):
    folder, data = own
    (folder / "steps.csv").unlink()
    assert read_own(folder, "train").recordings[0].steps == data.recordings[0].steps
    assert steps_of_states([(0, (1, 0)), (4, (0, -1)), (6, (1, 0))]) == ((4, 2), (4, 4), (6, 0))


def test_without_labels_and_frames(own):
    folder, _ = own
    (folder / "states.csv").write_text("nonsense")
    (folder / "b.mp4").unlink()
    (read,) = (one for one in read_own(folder, "train", labels=False, frames=False).recordings if one.id == "b")
    assert read.states == () and read.num_frames == 0


def test_all_problems_at_once_with_file_and_line(own):
    folder, _ = own
    (folder / "frames" / "000005.jpg").unlink()
    (folder / "frames" / "x000006.jpg").write_bytes(b"")
    with open(folder / "recordings.csv", "a") as file:
        file.write("a,train,new.mp4,10,assy,\nd,dev,d.mp4,-1,other,\n")
    (folder / "states.csv").write_text(
        "recording,frame,lid,wheel\na,0,0,0\na,12,1,0\na,3,2,0\na,0,0,0\nz,0,0,0\na,x,0,0\na,4,1\n"
    )
    (folder / "steps.csv").write_text("recording,frame,step\na,3,6\na,5,0\na,5,0\na,2,0\n")
    with pytest.raises(DataError) as caught:
        read_own(folder, "train")
    text = str(caught.value)
    for line in (
        "recordings.csv: line 5: 'a'",
        "recordings.csv: line 6: 'dev'",
        "recordings.csv: line 6: 'other'",
        "recordings.csv: line 6: '-1'",
        "a gap in the pictures",
        "1 of 12 are missing, the first is number 5",
        "two pictures of one number",
        "000006.jpg and x000006.jpg",
        "states.csv: line 3: frame 12, but",
        "states.csv: line 4: '2'",
        "states.csv: line 5: 0 after 0",
        "states.csv: line 6: 'z'",
        "states.csv: line 7: 'x'",
        "states.csv: line 8: 3",
        "steps.csv: line 2: '6'",
        "steps.csv: line 4: frame 5, step 0",
        "steps.csv: line 5: 2 after 5",
        "frames that are not there",
        "without component states",
    ):
        assert line in text, f"{line}\n{text}"


def test_a_table_that_does_not_fit(own):
    folder, _ = own
    document = json.loads((folder / "procedure.json").read_text())
    document["start_states"] = {"assy": "000"}
    document["states"] = ["00", "000"]
    (folder / "procedure.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"6 rows for 3 components[\s\S]*another length than the 2[\s\S]*all must have"):
        read_own(folder, "train")
    (folder / "procedure.json").write_text('{"components": ["lid"]}')
    with pytest.raises(DataError, match=r"procedure.json: not a procedure \(KeyError: 'steps'\)"):
        read_own(folder, "train")


def test_frames_are_counted_whatever_they_are(tmp_path, caplog):
    write_video(tmp_path / "a.mp4", np.zeros((5, 16, 16, 3), np.uint8), fps=10)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    problems = Problems()
    counted = count_frames(Recording("a", str(tmp_path / "a.mp4")), problems)
    assert (counted.num_frames, counted.fps) == (5, 10.0)
    for written, said in ((25.0, 1), (10.1, 0)):  # a video file knows better than a list
        clip._said.clear()
        caplog.clear()
        for _ in range(2):
            assert count_frames(Recording("a", str(tmp_path / "a.mp4"), fps=written), problems).fps == 10.0
        assert caplog.text.count(f"fps {written:g} is written of it") == said
    assert count_frames(Recording("b", str(tmp_path / "bad.mp4")), problems).num_frames == 0
    pictures(tmp_path / "late", [2, 3])
    assert count_frames(Recording("c", str(tmp_path / "late")), Problems()).num_frames == 2
    assert not problems.kinds, "an unreadable video is a bad clip of its own, not an error of the folder"
    count_frames(Recording("c", str(tmp_path / "late")), problems)
    assert re.match("pictures must be numbered from 0 or 1", next(iter(problems.kinds)))


# --------------------------------------------------------------------------------------------------- public layouts


def industreal(root, name="01_assy_0_1", frames=30, first=0, split="train", home=("recordings",), digits=6, rgb="rgb"):
    folder = root.joinpath(*home, split, name)
    pictures(folder / rgb, range(first, first + frames), digits)
    states = ["1" + "0" * 10, "1001" + "0" * 7, "1001-1" + "0" * 6]
    rows = [[*re.findall("-?[01]", state)] for state in states]
    at = [f"{first + n:0{digits}d}.jpg" for n in (0, 12, 20)]
    lines = [",".join([time, *row]) for time, row in zip(at, rows, strict=True)]
    (folder / "PSR_labels_raw.csv").write_text("\n".join(lines) + "\n")
    (folder / "PSR_labels.csv").write_text(f'{at[1]},9,"Install rear, chassis"\n')
    (root / "procedure_info.json").write_text(json.dumps(INDUSTREAL["procedure"]))
    return folder


def test_industreal(tmp_path):
    industreal(tmp_path)
    industreal(tmp_path, "02_main_1_1", split="val")
    assert detect_layout(tmp_path) == "industreal"
    train = read_procedures(tmp_path, "train")
    (one,) = train.recordings
    assert (one.id, one.procedure, one.fps, one.num_frames) == ("01_assy_0_1", "assy", 10.0, 30)
    assert one.states[0] == (0, (1, *[0] * 10)) and one.states[2] == (20, (1, 0, 0, 1, -1, *[0] * 6))
    assert one.steps == ((12, 9),)
    assert train.components[:3] == ["base", "front chassis", "front chassis pin"]
    assert train.state_names == INDUSTREAL["states"] and len(state_vectors(INDUSTREAL_STATES)) == 22
    assert read_procedures(tmp_path, "val").recordings[0].procedure == "main"
    assert train.procedure("assy").expected == {3, 6, 9, 15, 18, 21, 24, 27, 30}


def test_industreal_as_one_video_per_recording(tmp_path):
    folder = industreal(tmp_path, rgb="elsewhere")
    write_video(folder / "rgb.mp4", np.zeros((25, 16, 16, 3), np.uint8), fps=10)
    write_video(folder / "depth.mp4", np.zeros((9, 16, 16, 3), np.uint8), fps=10)
    (one,) = read_procedures(tmp_path, "train", layout="industreal").recordings
    assert (one.num_frames, one.path) == (25, str(folder / "rgb.mp4"))
    (folder / "rgb.mp4").rename(folder / "other.mp4")
    with pytest.raises(DataError, match=r"not one set of frames[\s\S]*2 video files"):
        read_procedures(tmp_path, "train", layout="industreal")
    (folder / "depth.mp4").unlink()
    (folder / "other.mp4").rename(folder.parent / "01_assy_0_1.mp4")
    assert read_procedures(tmp_path, "train", layout="industreal").recordings[0].num_frames == 25


def test_meccano_counts_its_pictures_from_one(tmp_path):
    home = industreal(tmp_path, "0001", first=1, home=(), digits=5, rgb=".")
    meccano = golden_json("psr_procedure_meccano")
    (tmp_path / "procedure_info.json").write_text(json.dumps(meccano["procedure"]))
    (home / "PSR_labels_raw.csv").write_text("00001.jpg" + ",0" * 17 + "\n00013.jpg,1" + ",0" * 16 + "\n")
    (home / "PSR_labels.csv").write_text("00013.jpg,0,Install left damping fork\n")
    assert detect_layout(tmp_path) == "meccano"
    data = read_procedures(tmp_path, "train")
    (one,) = data.recordings
    assert (one.num_frames, one.fps, one.steps, one.states[1][0]) == (30, 12.0, ((12, 0),), 12)
    assert data.start_states["assy"] == meccano["start_state"] and len(data.components) == 17
    (home / "00001.jpg").unlink()
    with pytest.raises(DataError, match="numbered from 1 on"):
        read_procedures(tmp_path, "train")


def test_public_layouts_say_all_that_is_wrong(tmp_path):
    folder = industreal(tmp_path)
    industreal(tmp_path, "03_neither")
    (folder / "rgb" / "000017.jpg").unlink()
    with open(folder / "PSR_labels_raw.csv", "a") as file:
        file.write("000030.jpg" + ",1" * 11 + "\n000029.jpg" + ",3" + ",1" * 10 + "\nframe 4" + ",1" * 11 + "\n")
    (folder / "PSR_labels.csv").write_text("000012.jpg,33,what\n000012.jpg,9,a\n000012.jpg,9,a\n")
    with pytest.raises(DataError) as caught:
        read_procedures(tmp_path, "train")
    text = str(caught.value)
    for part in (
        "the first is number 17",
        "PSR_labels_raw.csv: line 4: frame 30, but",
        "PSR_labels_raw.csv: line 5: '3'",
        "PSR_labels_raw.csv: line 6: 'frame 4'",
        "PSR_labels.csv: line 1: '33'",
        "PSR_labels.csv: line 3: frame 12, step 9",
        "03_neither",
        "assy or main",
    ):
        assert part in text, f"{part}\n{text}"
    (folder / "PSR_labels.csv").unlink()
    (folder / "PSR_labels_raw.csv").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"line 1 is not UTF-8[\s\S]*labels that are not there"):
        read_procedures(tmp_path, "train")


def test_a_table_elsewhere_and_a_folder_of_nothing(tmp_path):
    industreal(tmp_path / "data")
    (tmp_path / "data" / "procedure_info.json").rename(tmp_path / "table.json")
    with pytest.raises(DataError, match=r"procedure_info.json: the table of the procedure is not there"):
        read_procedures(tmp_path / "data", "train")
    data = read_procedures(tmp_path / "data", "train", table=str(tmp_path / "table.json"))
    assert len(data.recordings) == 1
    (tmp_path / "table.json").write_text(json.dumps(table(2)))
    with pytest.raises(DataError, match="6 rows for 11 components"):
        read_procedures(tmp_path / "data", "train", table=str(tmp_path / "table.json"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"neither recordings.csv"):
        read_procedures(tmp_path / "empty", "train")


def test_object_states(tmp_path):
    path = tmp_path / "a_results_pred.csv"
    path.write_text(",frame,class,conf,x,y,w,h\n0,0,3,0.9,1,1,2,2\n1,000002.jpg,0,0.25,1,1,2,2\n2,2,4.0,1,0,0,0,0\n")
    assert read_object_states(path, 3, 5) == [[(3, 0.9)], [], [(0, 0.25), (4, 1.0)]]
    with pytest.raises(DataError, match=r"0 to 2:\s+.*line 2: 3\n[\s\S]*0 to 1[\s\S]*line 3: 2\n"):
        read_object_states(path, 2, 3)
    path.write_text("h\n0,1,1,1.5\n0,1,nan,1\n0\n")
    with pytest.raises(DataError, match=r"outside 0..1:\s+.*line 2: 1.5[\s\S]*columns 1 to 3[\s\S]*\(2 cases\)"):
        read_object_states(path, 3, 5)


def test_labelled_mistakes_are_of_a_recording_and_a_step_of_their_kind(own):
    root, _ = own
    head = "recording,frame,kind,step\n"
    (root / "mistakes.csv").write_text(head + "a,7,wrong,4\nc,19,omitted,0\n")
    assert read_own(root, "train").recordings[0].mistakes == ((7, "wrong", 4),)
    (root / "mistakes.csv").write_text(head + "a,7,wrong,3\na,7,order,4\nd,1,wrong,1\n")
    with pytest.raises(DataError) as error:
        read_own(root, "train")
    assert "of another step than its kind" in str(error.value) and "line 2: wrong 3" in str(error.value)
    assert "line 3: order 4" in str(error.value) and "line 4: 'd'" in str(error.value)


def test_a_graph_of_steps_that_are_never_recognised(own):
    _, data = own
    rows = [{**row, "expected_in_assy": row["id"] != 3} for row in table(2)]
    data = replace(data, table=rows, graphs={"assy": [{"step": "lid"}, {"step": "wheel", "after": ["lid"]}]})
    with pytest.raises(DataError, match=r"does not expect \(expected_in_assy\).*: wheel"):
        data.graph("assy")
    replace(data, graphs={"assy": [{"step": "lid"}, {"step": "wheel", "optional": True}]}).graph("assy")
