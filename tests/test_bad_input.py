"""Every public function of numbers, with each argument in turn replaced by what it cannot be: it answers, or raises an
error of dust's own; and what the answers to the odd ones are."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from dust.datasets.transforms import frames
from dust.models import contrastive_losses as contrastive
from dust.models.losses import ClassificationLoss, balanced_class_weights
from dust.models.tracks import PointTrackLSTM
from dust.procedure import decoders, metrics, windows
from dust.procedure.step_decoder import MODES, StepDecoder
from dust.procedure.table import Procedure
from dust.streaming.keystep import StepStream
from dust.streaming.tracks import TrackStream
from dust.utils import lr_policy
from dust.utils.errors import DataError, DustError
from dust.utils.metrics import (
    classification_metrics,
    ensemble_views,
    f1_scores,
    multilabel_metrics,
    per_class_report,
    topk_correct,
)
from dust.utils.retrieval import retrieval_metrics
from tests.models.small_models import make

NAN = float("nan")
SCORES = [[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]
STEPS = [(2, 0), (5, 3), (9, 2)]
PROCEDURE = Procedure(frozenset(range(6)), (0, 0))
STATES = {0: (0, 0), 1: (1, 0), 2: (1, 1)}
SEEN = [[(0, 0.9)], [], [(1, 0.8), (2, 0.1)], [(2, 0.9)]]
WINDOWS = [(1, [0, 1], [0.2, 0.9]), (3, [1, 0], [0.9, 0.1])]
BOTH = {"detections": SEEN, "windows": WINDOWS, "states": STATES, "procedure": PROCEDURE, "window": 4}
RNG = np.random.RandomState(0)
DENSE = {"video_len": 20, "num_frames": 4}
VIEW = {"num_clips": 2, "clip_idx": 1}
EVIDENCE = {"cum_threshold": 6.0, "decay": 0.75}
COSINE = {"epoch": 1, "base_lr": 0.1, "end_lr": 0.0, "max_epoch": 5}
TENSORS = {"embeddings": torch.eye(4), "labels": torch.tensor([0, 0, 1, 1])}
SCHEDULE = lr_policy.LRSchedule(policy="cosine", base_lr=0.1, max_epoch=4)

#: function -> good arguments.
FUNCTIONS = {
    metrics.pos: {"gt_ids": [0, 3, 2], "pred_ids": [0, 2]},
    metrics.reorder_within_window: {"gt": STEPS, "pred": STEPS[:2], "window": 4},
    metrics.f1: {"tp": 1, "fp": 2, "fn": 0},
    metrics.match_steps: {"gt": STEPS, "pred": STEPS[:2], "mode": "paper"},
    metrics.score_recording: {"gt": STEPS, "pred": STEPS[:2], "fps": 10.0, "mode": "storm", "window": 3},
    windows.window_span: {"num_frames": 3, "skip": 1},
    windows.window_padding: {"video_len": 9, "num_frames": 3, "skip": 1},
    windows.clip_indices: {"last": 7, "num_frames": 3, "skip": 1, "video_len": 9},
    windows.window_ends: {"video_len": 9, "num_frames": 3, "skip": 1, "phases": "all"},
    windows.state_changes: {"states": [(0, [0, 0]), (4, [1, 0])], "exe_mode": "errors"},
    windows.window_labels: {"changes": {4: [1, 0]}, "first": [0, 3], "last": [2, 5], "num_components": 2},
    decoders.decode_b1: {"detections": SEEN, "states": STATES},
    decoders.decode_b2: {"detections": SEEN, "states": STATES, **EVIDENCE},
    decoders.decode_b3: {"detections": SEEN, "states": STATES, "procedure": PROCEDURE, **EVIDENCE},
    decoders.decode_temporal: {"windows": WINDOWS, "procedure": PROCEDURE, "window": 4, **EVIDENCE},
    decoders.decode_temporal_naive: {"windows": WINDOWS, "procedure": PROCEDURE, "window": 4},
    decoders.decode_dual: BOTH,
    decoders.decode_dual_published: BOTH,
    topk_correct: {"scores": SCORES, "labels": [1, 0, 2], "ks": (1, 2)},
    ensemble_views: {"outputs": SCORES, "method": "sum"},
    classification_metrics: {"scores": SCORES, "labels": [1, 0, 2]},
    f1_scores: {"predicted": [0, 1, -1], "labels": [0, 1, 1]},
    multilabel_metrics: {"scores": SCORES, "labels": [[0, 1, 0]] * 3},
    per_class_report: {"predicted": [0, 1, 2], "labels": [0, 1, 1], "num_classes": 3},
    retrieval_metrics: {"embeddings": SCORES, "labels": [0, 0, 1], "ignore": 1, "groups": [0, 1, 2]},
    lr_policy.cosine: {**COSINE, "offset": 1.0},
    lr_policy.steps_with_relative_lrs: {"epoch": 1, "base_lr": 0.1, "steps": [0, 3], "lrs": [1, 0.1]},
    lr_policy.videomae_cosine: {
        "step": 3, "base_lr": 0.1, "end_lr": 0.0, "total_steps": 9, "warmup_steps": 2, "warmup_start_lr": 0.0,
    },
    lr_policy.cosine_restart: {"epoch": 1.0, "base_lr": 0.1, "end_lr": 0.0, "period": 5.0},
    lr_policy.dust_linear_cosine: {**COSINE, "linear_epochs": 2.5},
    SCHEDULE.at_iteration: {"epoch": 1, "iteration": 2, "iters_per_epoch": 5},
    ClassificationLoss("cross_entropy").forward: {"logits": torch.zeros(2, 3), "target": torch.tensor([0, 2])},
    ClassificationLoss("bce_logit", class_weights=[1, 2, 1]).forward: {
        "logits": torch.zeros(2, 3), "target": torch.ones(2, 3),
    },
    balanced_class_weights: {"counts": [1, 0, 3]},
    contrastive.supcon_loss: {**TENSORS, "exclude_bg": True},
    contrastive.batch_hard_loss: TENSORS,
    contrastive.batch_all_loss: TENSORS,
    contrastive.batch_all_triplet_loss: TENSORS,
    contrastive.state_cross_entropy: {"logits": torch.zeros(4, 2), "labels": TENSORS["labels"]},
    frames.dense_span: {"num_frames": 4, "sampling_rate": 2, "fps": 30.0, "target_fps": 30.0},
    frames.dense_window: {**DENSE, "start": 1.0, "span": 8.0},
    frames.dense_train: {**DENSE, "fps": 30.0, "sampling_rate": 2, "target_fps": 30.0, "rng": RNG},
    frames.dense_start: {"video_len": 20, "span": 8.0, **VIEW, "use_offset": True},
    frames.dense_test: {**DENSE, "fps": 30.0, "sampling_rate": 2, "target_fps": 30.0, **VIEW},
    frames.dense_centre: {**DENSE, "fps": 30.0, "sampling_rate": 2, "target_fps": 30.0},
    frames.segments_train: {**DENSE, "rng": RNG},
    frames.segments_test: {**DENSE, **VIEW},
    frames.whole_clip_random: {**DENSE, "rng": RNG},
    frames.whole_clip_uniform: {**DENSE, **VIEW},
    frames.videomae_dense_train: {**DENSE, "sampling_rate": 2, "rng": RNG},
    frames.videomae_dense_test: {**DENSE, "sampling_rate": 2, **VIEW},
    frames.tsn_train: {**DENSE, "rng": RNG},
    frames.tsn_test: {**DENSE, **VIEW},
}  # fmt: skip

NUMBERS = [0, -1, 10**6, 2.5, NAN, math.inf, -math.inf]
ROWS = [
    [], [0], [NAN], [0, 1, 99], [0.5, 1, 2], [-1, 0, 1], [NAN, 1, 2], ["a", "b", "c"], [None, 1, 2], [[0, 1], [2]],
    [[]], [[0, 1], [2, 3]], [[NAN, 1, 2]] * 3, [(3, 1), (1, 0), (2, 2)], [(1.5, 0)], [(NAN, 0)], [(0, NAN)], [(-4, 1)],
    [1j, 2, 3],
]  # fmt: skip
OF_FRAMES = [[[(0, NAN)]], [[(0.5, 0.5)]], [[(9, 0.5)]], [[(0,)]], [(0.5, [0, 1], [0.1, 0.2])], [(0, [2, NAN], [1, 1])]]
OF_FRAMES += [[(0, [0, 1], [NAN, 1])], [(0, [0], [1])], [(0, [0, 1, 1], [1, 1])], [(99, [0, 1], [1, 1])]]


def replacements(value):
    """What an argument that is now ``value`` cannot be, or is at its edge."""
    if isinstance(value, torch.Tensor):
        shape = value.shape
        kinds = [torch.full(shape, NAN), torch.full(shape, -1), torch.full(shape, 99), value[:0], value[0], value[None]]
        return [
            *kinds,
            value.tolist(),
            value.double(),
            value.to(torch.complex64) if value.is_floating_point() else value,
        ]
    if isinstance(value, bool | str) or value is PROCEDURE or value is RNG:
        return []
    if isinstance(value, int | float):
        return NUMBERS
    if isinstance(value, Mapping):
        return [{}, {0: (0, 0), 1: (1,)}, {0: ()}, {4: [1]}, {2.5: [1, 0]}, {4: [NAN, 0]}]
    arrays = [np.array(row) for row in ROWS if len({len(np.atleast_1d(one)) for one in row}) == 1 and None not in row]
    tensors = [torch.tensor(row) for row in ROWS if row and all(isinstance(one, int | float) for one in row)]
    return [*ROWS, *OF_FRAMES, *arrays, *tensors, torch.rand(3, 3).bfloat16().requires_grad_()]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: f"{function.__module__}.{function.__qualname__}")
def test_each_answers_or_raises_an_error_of_dusts(function, recwarn):
    arguments = FUNCTIONS[function]
    function(**arguments)
    refused = 0
    for name, value in arguments.items():
        for other in replacements(value):
            try:
                function(**{**arguments, name: other})
            except DustError as error:
                refused += 1
                assert str(error), name
            except Exception as error:
                raise AssertionError(f"{function.__name__}({name}={other!r}): {error!r}") from error
    assert refused, "something must be refused"
    assert not [str(warning.message) for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


@pytest.mark.parametrize("mode", MODES)
def test_step_decoders_over_a_recording(mode):
    good = {"detections": SEEN, "last": np.array([1, 3]), "probabilities": np.array([[0.2, 0.9], [0.8, 0.1]])}
    decoder = StepDecoder(mode=mode, window=3)
    decoder.decode(PROCEDURE, STATES, **good)
    nothing = {"detections": [], "last": np.array([]), "probabilities": np.zeros((0, 2))}
    assert decoder.decode(PROCEDURE, STATES, **nothing) == []
    wrong = {
        "last": [np.array([1]), np.array([1, 99]), np.array([1.5, 3]), np.array([NAN, 3]), np.array([3, 1])],
        "probabilities": [np.full((2, 2), NAN), np.zeros((3, 2)), np.array(["a", "b"])],
    }
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(DustError):
                decoder.decode(PROCEDURE, STATES, **{**good, name: value})


# ---------------------------------------------------------------------------------------------- lists, arrays, tensors


@pytest.mark.parametrize("as_type", [list, np.array, torch.tensor])
def test_lists_arrays_and_tensors_are_the_same(as_type):
    scores, labels = as_type(SCORES), as_type([1, 0, 2])
    assert classification_metrics(scores, labels)["top1_acc"] == 100.0
    assert [hit.tolist() for hit in topk_correct(scores, labels, (1,))] == [[True] * 3]
    assert multilabel_metrics(scores, as_type(np.eye(3, dtype=int)[[1, 0, 2]].tolist()))["map"] == 100.0
    assert per_class_report(labels, labels, 3)["f1"].tolist() == [1.0] * 3
    assert f1_scores(labels, labels) == {"macro_f1": 100.0, "weighted_f1": 100.0}
    assert ensemble_views(scores, "max").tolist() == pytest.approx([0.5, 0.7, 0.7])
    assert retrieval_metrics(scores, as_type([0, 0, 0]))["precision_at_1"] == 100.0
    assert metrics.score_recording(as_type(STEPS), as_type(STEPS), fps=10.0).f1 == 1.0
    assert metrics.pos(as_type([0, 3]), as_type([0, 3])) == 1.0


def test_a_tensor_with_a_gradient_of_16_bits():
    scores = torch.tensor(SCORES, dtype=torch.bfloat16, requires_grad=True)
    assert classification_metrics(scores, torch.tensor([1, 0, 2]))["top1_acc"] == 100.0


# ------------------------------------------------------------------------------------------------------ what is right


@pytest.mark.parametrize("mode", metrics.MODES)
def test_a_perfect_and_an_empty_recording(mode):
    late = [(frame + 1, step) for frame, step in STEPS]  # the published programs count the same frame as too early
    perfect = metrics.score_recording(STEPS, STEPS if mode == "paper" else late, fps=10.0, mode=mode)
    assert (perfect.pos, perfect.fp, perfect.fn) == (1.0, 0, 0)
    assert perfect.f1 == 1.0 if mode == "paper" else perfect.f1 == pytest.approx(1, abs=1e-6)
    empty = metrics.score_recording([], [], fps=10.0, mode=mode)
    assert empty.pos == 1.0 and empty.f1 == pytest.approx(2e-12 / 3e-6)  # as the published formula has it
    assert empty.tau_s == {"paper": None, "industreal": 10.0, "storm": 0.0}[mode]
    assert metrics.summarize({}) == {"pos": None, "f1": None, "tau_s": None, "tp": 0, "fp": 0, "fn": 0, "recordings": 0}


def test_nothing_to_measure():
    assert all(math.isnan(value) for value in f1_scores([], []).values())
    found = retrieval_metrics(np.zeros((0, 4)), [])
    assert found["queries"] == 0 and math.isnan(found["map_at_r"])
    assert math.isnan(multilabel_metrics(SCORES, np.zeros((3, 3)))["map"])
    assert per_class_report([], [], 2)["support"].tolist() == [0, 0]


WRONG = [
    (lambda: classification_metrics(SCORES, [1, 0, 3]), "label 3 is none of the 3 classes"),
    (lambda: classification_metrics(SCORES, [1, 0, 0.5]), "label: 0.5 is no class number"),
    (lambda: classification_metrics([[NAN, 1]], [1]), "1 of 1 samples have NaN scores"),
    (lambda: topk_correct(SCORES, [1, 0, 3], (1,)), "label 3 is none of the 3 classes"),
    (lambda: per_class_report([0, 1], [0, 2], 2), "label 2 is none of the 2 classes"),
    (lambda: multilabel_metrics(SCORES, [[0, 2, 0]] * 3), "zeros and ones"),
    (lambda: retrieval_metrics([[NAN, 1]], [0]), "1 of 1 embeddings are not finite"),
    (lambda: ClassificationLoss("cross_entropy")(torch.zeros(1, 3), torch.tensor([-100])), "label -100 is none of"),
    (lambda: ClassificationLoss("cross_entropy", class_weights=[1])(torch.zeros(1, 3), torch.tensor([0])), "1 class w"),
    (lambda: metrics.match_steps([(1.5, 0)], []), r"completed steps: \[1.5, 0.0\]; both are whole numbers"),
    (lambda: metrics.score_recording(STEPS, STEPS, fps=NAN), "at nan frames per second"),
    (lambda: windows.window_span(0, 0), "a window of 0 frames"),
    (lambda: windows.window_ends(2.5, 1), "video_len is 2.5: it must be a whole number"),
    (lambda: decoders.decode_b1([[(0, NAN)]], STATES), "detections of frame 0"),
    (lambda: decoders.decode_b2([], {}), "states have no components"),
    (lambda: frames.segments_test(0, 4), "video_len is 0: it must be at least 1"),
    (lambda: frames.whole_clip_uniform(10, 0), "num_frames is 0"),
    (lambda: frames.tsn_test(10, 4, num_clips=2, clip_idx=2), "clip_idx is 2, and there are 2 clips"),
    (lambda: lr_policy.cosine(1, base_lr=1, end_lr=0, max_epoch=2, offset=2), "max_epoch is 2.*above 2"),
    (lambda: lr_policy.steps_with_relative_lrs(1, base_lr=1, steps=[], lrs=[]), "steps begin at 0"),
]


@pytest.mark.parametrize(("call", "words"), WRONG)
def test_errors_name_what_is_wrong(call, words):
    with pytest.raises(DustError, match=words):
        call()


# ------------------------------------------------------------------------------------------------------------ streams


def step_stream():
    arguments = {"seq_len": 4, "dim": 6, "depth": 1, "heads": 2, "dim_head": 4, "mlp_dim": 8, "num_classes": 2}
    model = make("TemporalEncoder", arguments)
    decoder = StepDecoder(window=4)
    return StepStream(model, decoder, lambda: decoder.start(PROCEDURE, STATES), frames=3, skip=0)


def test_step_streams():
    stream = step_stream()
    assert stream.finish() is None, "nothing was pushed"
    stream.push(torch.ones(6))
    for frame, words in (
        (torch.full((6,), NAN), "frame 1 of the stream is not finite"),
        ([1.0] * 6, "is a list, not a tensor"),
        (torch.ones(5), r"is \(5,\), those before are \(6,\)"),
    ):
        with pytest.raises(DataError, match=words):
            stream.push(frame)
    assert stream.push(torch.ones(6)).frame == 1, "what was refused is not counted"
    with torch.no_grad():
        next(iter(stream.model.parameters())).fill_(NAN)
    with pytest.raises(DataError, match="not finite"):
        stream.push(torch.ones(6))


def test_track_streams():
    model = make("PointTrackLSTM", {"num_views": 2, "num_points": 12, "view_dim": 8, "hidden_dim": 16})
    assert isinstance(model, PointTrackLSTM)
    stream = TrackStream(model, window=3, stride=1)
    assert stream.finish() is None and stream.timeline() == []
    good, hidden = torch.zeros(2, 12, 2), torch.ones(2, 12, dtype=torch.bool)
    stream.push(good)
    hidden[0, 3] = False
    nowhere = good.clone()
    nowhere[0, 3] = NAN
    stream.push(nowhere, hidden)  # where a point is not seen its place may be anything
    for points, visible, words in (
        (nowhere, None, "visible points of frame 2 are not finite"),
        (good[..., 0], None, r"\(V, P, 2\), got \(2, 12\)"),
        (good.tolist(), None, r"\(V, P, 2\), got"),
        (good[:, :5], None, r"are \(2, 5, 2\), those before are \(2, 12, 2\)"),
        (good, hidden[:1], r"visible must be bool \(2, 12\)"),
        (good, hidden.float(), "visible must be bool"),
    ):
        with pytest.raises(DustError, match=words):
            stream.push(points, visible)
    assert stream.push(good).stop == 3, "what was refused is not counted"
    with torch.no_grad():
        model.head.weight.fill_(NAN)
    with pytest.raises(DustError, match="frames 1 to 3: the model's output is not finite"):
        stream.push(good)
