"""KeyStep's five stages in one command, on generated recordings whose orders training has not seen."""

import json
import subprocess

import numpy as np
import pytest

import dust.datasets.keystep.recordings
import dust.models.keystep_frames
import dust.models.keystep_video  # noqa: F401 - registers
from dust.datasets.keystep.key_frames import key_frames
from dust.datasets.keystep.layouts import read_procedures
from dust.engine import run_net
from dust.procedure.decoders import decode_b1
from dust.procedure.metrics import score_recording, summarize
from dust.synthetic.keystep import generate_procedure
from dust.utils.features import FeatureStore
from tests.datasets.keystep.test_files import industreal
from tests.helpers import ROOT, tool

STAGES = ("spatial", "features", "temporal", "finetune", "test")


def argv(stages, data, out, *more):
    files = [str(ROOT / "configs" / "quickstart" / f"keystep_{stage}.yaml") for stage in stages]
    return ["--cfg", *files, "DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(out), *more]


def report(out, stage):
    return json.loads((out / f"keystep_{stage}" / "results" / "test.json").read_text())


def per_frame_argmax(data, features):
    """F1 and so on where each frame's state is that of the nearest mean of key frames, whatever came before."""
    store, rows = FeatureStore.open(features, "train"), {}
    for one in read_procedures(data, "train", frames=False).recordings:
        embeddings = store.get(one.id)
        for frame, state in key_frames(one.states, len(embeddings), 20).items():
            rows.setdefault(state, []).append(embeddings[frame])
    means = np.stack([np.mean(found, axis=0) for found in rows.values()])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    store, scores = FeatureStore.open(features, "test"), {}
    for one in read_procedures(data, "test", frames=False).recordings:
        best = (store.get(one.id) @ means.T).argmax(axis=1)
        steps = decode_b1([[(int(state), 1.0)] for state in best], dict(enumerate(rows)))
        scores[one.id] = score_recording(one.steps, steps, fps=one.fps)
    return summarize(scores)


@pytest.mark.slow
@pytest.mark.quickstart
def test_steps_of_unseen_recordings_within_seconds(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "runs"
    generate_procedure(data)
    assert run_net.main(argv(STAGES, data, out)) == 0
    found = report(out, "test")
    assert found["f1"] > 0.9 and found["pos"] > 0.9 and found["tau_s"] < 3
    assert found["counts"] == {"samples": 6, "bad_clips": 0} and found["errors"]["recordings"] >= 1
    assert report(out, "temporal")["f1"] > 0.8
    naive = per_frame_argmax(data, out / "keystep_features" / "features")
    assert naive["f1"] < 0.6, "the data would be too easy"
    capsys.readouterr()
    assert run_net.main(argv(STAGES, data, out)) == 0
    assert capsys.readouterr().out.count("finished already") == 5
    _with_object_states(data, out)
    _another_encoder(data, out, capsys)


def _with_object_states(data, out):
    """The same model beside the generated detector: each stream alone, and both."""
    for mode in ("b3", "dual"):
        more = ["TEST.CHECKPOINT_FILE_PATH", str(out / "keystep_finetune"), "KEYSTEP.DECODE.MODE", mode]
        assert run_net.main(argv(["test"], data, out / f"keystep_{mode}", *more)) == 0
        found = report(out, mode)
        assert found["decoder"] == mode and found["f1"] > 0.8


def _another_encoder(data, out, capsys):
    """Embeddings of another frame encoder are refused by the temporal encoder."""
    for path in (out / "keystep_features" / "features").glob("*.json"):
        stored = json.loads(path.read_text())
        stored["meta"]["checkpoint_sha256"] = "0" * 64
        path.write_text(json.dumps(stored))
    more = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(out / "keystep_temporal")]
    assert run_net.main(argv(["temporal"], data, out / "again", *more)) == 2
    assert "another encoder" in capsys.readouterr().err


def test_job_scripts_run_without_slurm():
    for name in ("temporal", "finetune"):
        script = ROOT / "slurm_scripts" / f"keystep_{name}.sh"
        subprocess.run(["bash", "-n", str(script)], check=True)
        text = script.read_text()
        assert "#SBATCH" in text and "SLURM_SUBMIT_DIR:-" in text
        refused = subprocess.run(["bash", str(script)], capture_output=True, text=True)
        assert refused.returncode == 2 and "usage" in refused.stderr
        # with another `dust` in front, to see what it would be told to run
        command = f"dust() {{ printf '%s\\n' \"$@\"; }}; export -f dust; sed 's/^exec //' '{script}' | bash -s -- "
        command = command.replace("bash -s", f"SLURM_SUBMIT_DIR='{ROOT}' bash -s") + "industreal DATA RUNS NUM_GPUS 0"
        told = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout.split()
        files = [word for word in told if word.endswith(".yaml")]
        assert files and all((ROOT / file).exists() for file in files)
        assert told[-6:] == ["DATA.PATH_TO_DATA_DIR", "DATA", "OUTPUT_DIR", "RUNS", "NUM_GPUS", "0"]


def test_the_tools_know_the_data(tmp_path):
    command = ["gen_data", "keystep", "--out", tmp_path / "data", "--recordings", "3", "--parts", "3", "--size", "32"]
    said = tool(*command).stdout
    assert "1 train, 1 val, 1 test" in said and "configs/quickstart/keystep_test.yaml" in said
    again = tool(*command)
    assert again.returncode == 2 and "error:" in again.stderr


def test_industreal_is_listed_from_the_command_line(tmp_path):
    industreal(tmp_path / "raw")
    command = ["convert_data", "industreal", "--root", tmp_path / "raw"]
    said = tool(*command, "--out", tmp_path / "out")
    assert said.returncode == 0, said.stderr
    assert "1 train; 30 frames, 11 components" in said.stdout and "MODEL.NUM_CLASSES 11" in said.stdout
    assert read_procedures(tmp_path / "out", "train").recordings[0].steps == ((12, 9),)
    (tmp_path / "raw" / "recordings" / "train" / "01_assy_0_1" / "rgb" / "000007.jpg").unlink()
    refused = tool(*command, "--out", tmp_path / "2")
    assert refused.returncode == 2 and "a gap in the pictures" in refused.stderr
