"""An evaluation's memory does not grow with its scores: the measurement of docs/BENCHMARKS.md, in small."""

import pytest

from benchmarks.records import measure_records


@pytest.mark.slow
def test_scores_of_two_processes_never_meet_in_one_memory(tmp_path):
    """40,000 clips x 1,000 classes: 320 MB of scores and probabilities, of which each process makes half."""
    rows = measure_records(40_000, 1_000, 2, str(tmp_path)).figures
    spilled = rows[0]["spilled_mb"]
    assert spilled > 320 and len(rows) == 2
    assert all(row["grown_mb"] < spilled / 2 for row in rows), rows
    assert (tmp_path / "results" / "predictions.csv").read_bytes().count(b"\r\n") == 40_001
