"""Several processes that resume: one verifies, one of each node reads, and all have the same, or the same error."""

import json
import shutil

import pytest

from dust.utils.checkpoint import list_checkpoints
from tests.processes import zygote
from tests.runs import PLAIN, assert_same_run, final_of, words

#: What each process of a run of several reads of checkpoints, a line each.
COUNTED = """
import json, os, torch
from dust.utils.checkpoint import sharded, single, store
from dust.utils import distributed

def counted(name, real):
    def call(path, *args, **kwargs):
        if distributed.world_size() > 1:
            line = json.dumps([distributed.rank(), name, os.path.basename(str(path))]) + "\\n"
            with open(os.environ["READS"], "a") as file:
                file.write(line)
        return real(path, *args, **kwargs)
    return call

single.sha256_of_file = counted("hash", single.sha256_of_file)
sharded.sha256_of_file = counted("hash", sharded.sha256_of_file)
store.sha256_of_file = counted("name", store.sha256_of_file)
torch.load = counted("read", torch.load)
"""
TWO = {**PLAIN, "NUM_PROCS_PER_NODE": 2, "TEST__ENABLE": False, "SOLVER__OPTIMIZING_METHOD": "adamw"}


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("two") / "run"
    zygote().finish(words(clips, out, **TWO))
    return out


def resumed(clips, tmp_path, **more):
    """The run goes on; what was read, by which process."""
    load, reads = tmp_path / "load.py", tmp_path / "reads"
    load.write_text(COUNTED)
    reads.write_text("")
    run = zygote().start(words(clips, tmp_path / "run", **{**TWO, **more}), load=str(load), env={"READS": str(reads)})
    code = run.wait()
    return code, run.said, [json.loads(line) for line in reads.read_text().splitlines()]


@pytest.mark.slow
def test_a_file_is_verified_once_and_read_once_on_a_node(clips, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    first, last = list_checkpoints(tmp_path / "run" / "checkpoints")
    last.write_bytes(last.read_bytes()[:-1])  # so that all must agree to take the one before
    code, said, reads = resumed(clips, tmp_path)
    assert code == 0, said[-3000:]
    old = [read for read in reads if read[2] in (first.name, last.name)]
    assert [read[:2] for read in old if read[2] == first.name] == [[0, "hash"], [0, "read"]]
    assert old[0] == [0, "hash", last.name] and all(rank == 0 for rank, *_ in old)
    assert_same_run(final_of(whole), final_of(tmp_path / "run"))


@pytest.mark.slow
def test_a_test_and_an_extraction_read_it_likewise(clips, whole, tmp_path):
    """Of the newest that is whole, one process sees that it is, and one reads: each of both stages once."""
    shutil.copytree(whole, tmp_path / "run")
    first, last = list_checkpoints(tmp_path / "run" / "checkpoints")
    last.write_bytes(last.read_bytes()[:-1])
    later = {"TRAIN__ENABLE": False, "TEST__ENABLE": True, "FEATURES__ENABLE": True, "FEATURES__SPLITS": "[val]"}
    code, said, reads = resumed(clips, tmp_path, **later)
    assert code == 0, said[-3000:]
    assert all(rank == 0 for rank, *_ in reads)
    of_first = [name for _, name, path in reads if path == first.name]
    assert of_first == ["hash", "hash", "read", "name"] * 2  # found, verified, read, named in what is written
    assert json.loads((tmp_path / "run" / "results" / "test.json").read_text())["checkpoint"] == str(first)


PROBE = {
    "MODEL__MODEL_NAME": "Probe", "PROBE__BACKBONE": "TimeSformer", "PROBE__HEAD": "linear", "SOLVER__MAX_EPOCH": 1,
    "TEST__ENABLE": True,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "more"), [("PROBE__BACKBONE_FROM", PROBE), ("TRAIN__CHECKPOINT_FILE_PATH", {"SOLVER__MAX_EPOCH": 3})]
)
def test_what_a_run_takes_over_is_read_likewise(clips, whole, tmp_path, key, more):
    code, said, reads = resumed(clips, tmp_path, **{key: whole, **more})
    assert code == 0, said[-3000:]
    taken = list_checkpoints(whole / "checkpoints")[-1].name
    of_taken = [name for rank, name, path in reads if path == taken and rank == 0]
    assert of_taken.count("read") == (2 if "TEST__ENABLE" in more else 1)  # trained, and tested
    assert not [read for read in reads if read[0]]


@pytest.mark.slow
def test_what_is_damaged_is_said_once_and_ends_all(clips, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    for path in list_checkpoints(tmp_path / "run" / "checkpoints"):
        path.write_bytes(path.read_bytes()[:-1])
    code, said, reads = resumed(clips, tmp_path)
    assert code == 2 and said.count("error: ") == 1 and "none of its 2 checkpoints can be used" in said, said[-3000:]
    assert all(rank == 0 for rank, *_ in reads)
