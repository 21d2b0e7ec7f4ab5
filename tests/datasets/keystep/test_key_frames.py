"""Key frames: what is drawn, that it is drawn again alike, and what cannot be."""

import logging
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dust.datasets.build import build_dataset
from dust.datasets.keystep.frames import FrameReader
from dust.datasets.keystep.key_frames import KeyFrames, background_frames, key_frames, state_classes
from dust.datasets.loader import EpochBatchSampler, collate_training
from dust.datasets.manifest import conflicts
from dust.datasets.sample import BadClip, SampleRequest
from dust.datasets.transforms.augment import Grayscale, grayscale
from dust.decode.reader import open_clip
from dust.utils.errors import DataError


def key_dataset(data, **options):
    options = {"count": 5, "n_classes": 3, "n_real": 4, "n_bg": 6, "training": True, "seed": 7, **options}
    classes = options.pop("class_names", None) or state_classes(data, 5)
    return KeyFrames(data=data, class_names=classes, reader=FrameReader(16), **options)


def requests_of(dataset, epoch, batch):
    return [SampleRequest(epoch, batch * dataset.size + place) for place in range(dataset.size)]


def samples_of(dataset, epoch, batch):
    """The views of all pictures of one batch."""
    return [view for item in dataset.__getitems__(requests_of(dataset, epoch, batch)) for view in item]


def test_key_frames_by_hand():
    states = [(0, (0, 0)), (10, (1, 0)), (13, (1, -1)), (20, (1, 1))]
    found = key_frames(states, 23, 4)
    assert found == {
        **dict.fromkeys(range(4), (0, 0)),
        **dict.fromkeys((10, 11, 12), (1, 0)),  # the next change comes first
        **dict.fromkeys((20, 21, 22), (1, 1)),  # and here the recording ends; a wrong state has none
    }


def test_background_by_hand():
    states = [(0, (0,)), (30, (1,)), (35, (0,))]
    # 30: 30 - 3 * 4 .. 30 - 2 * 4 = 18..21;  35: 23..26
    assert background_frames(states, 60, 4, (3, 2)) == [18, 19, 20, 21, 23, 24, 25, 26]
    # of 0..7 before frame 8 the first are key frames of the initial state
    assert background_frames([(0, (0,)), (8, (1,))], 60, 4, (2, 1)) == []
    assert background_frames([(0, (0,)), (10, (1,))], 60, 4, (7, 1)) == [4, 5]


def test_a_batch_is_balanced(data):
    dataset = key_dataset(data)
    samples = samples_of(dataset, 2, 3)
    labels = [sample["label"] for sample in samples]
    counts = Counter(labels)
    assert len(samples) == 3 * 4 + 6 and counts.pop(0) == 6 and len(counts) == 3 and set(counts.values()) == {4}
    assert labels[-6:] == [0] * 6, "background stands last"
    for label in counts:
        assert len({sample["id"] for sample in samples if sample["label"] == label}) == 4, "each picture once"
    assert samples[0]["inputs"]["video"].shape == (3, 1, 16, 16)
    assert samples[0]["inputs"]["video"].dtype == torch.uint8


def test_frames_of_a_recording_do_not_contradict_each_other(data):
    frames = conflicts.samples_of(key_dataset(data).clips)
    assert len({one.label for one in frames if one.sources[0][0] == frames[0].sources[0][0]}) > 1, "one recording"
    assert not conflicts.find_conflicts({"train": frames})


def test_every_picture_has_the_state_of_its_frame(data):
    dataset = key_dataset(data)
    recordings = {one.id: one for one in data.recordings}
    for picture in dataset.draw(0, 0):
        name, frame = picture.id.rsplit(":", 1)
        assert int(frame) == picture.frame
        state = [state for at, state in recordings[name].states if at <= picture.frame][-1]
        if picture.label:
            assert dataset.class_names[picture.label] == "".join(map(str, state))
        else:
            assert any(25 < at - picture.frame + 5 <= 40 for at, _ in recordings[name].states)


def test_draws_depend_on_seed_epoch_and_batch_alone(data):
    one, two = key_dataset(data), key_dataset(data)
    assert one.draw(0, 1) == two.draw(0, 1)
    assert one.draw(0, 1) != one.draw(0, 2) and one.draw(0, 1) != one.draw(1, 1)
    assert one.draw(0, 1) != key_dataset(data, seed=8).draw(0, 1)
    everything = {picture.id for batch in range(200) for picture in one.draw(0, batch)}
    assert everything == {clip.id for clip in one.clips}, "all pictures are met sooner or later"


def test_pictures_are_those_of_the_file_and_augmentation_is_drawn_per_view(data):
    plain, two = key_dataset(data), key_dataset(data, num_views=2, jitter=(0.1, 0.1, 0.7), blur=(0.01, 2.0))
    sample, picture = samples_of(plain, 0, 0)[5], plain.draw(0, 0)[5]
    with open_clip(picture.path) as reader:
        frame = reader.frames([picture.frame], size=(16, 16))[0]
    assert torch.equal(sample["inputs"]["video"][:, 0], torch.from_numpy(frame).permute(2, 0, 1))
    augmented = samples_of(two, 0, 0)
    assert [one["id"] for one in augmented[:4]] == [plain.draw(0, 0)[i].id for i in (0, 0, 1, 1)]
    a, b = (one["inputs"]["video"] for one in augmented[:2])
    assert not torch.equal(a, b) and not torch.equal(a, plain[SampleRequest(0, 0)][0]["inputs"]["video"])
    assert torch.equal(samples_of(two, 0, 0)[3]["inputs"]["video"], two[SampleRequest(0, 1)][1]["inputs"]["video"])
    assert torch.equal(a, two[SampleRequest(0, 0)][0]["inputs"]["video"])


def test_augmentations_of_the_list_come_last(data, cfg):
    plain = key_dataset(data, num_views=2, blur=(0.01, 2.0))
    grey = key_dataset(data, num_views=2, blur=(0.01, 2.0), augmentations=[Grayscale(prob=1.0)])
    for one, other in zip(samples_of(plain, 0, 0), samples_of(grey, 0, 0), strict=True):
        expected = grayscale(one["inputs"]["video"].transpose(0, 1)).transpose(0, 1)
        assert torch.equal(other["inputs"]["video"], expected)
    keys = {"TRAIN__DATASET": "KeyFrames", "AUG__ENABLE": True, "AUG__LIST": ["Grayscale"]}
    built = build_dataset("KeyFrames", cfg(**keys), "train")
    assert [type(one) for one in built.augmentations] == [Grayscale]
    assert build_dataset("KeyFrames", cfg(TRAIN__DATASET="KeyFrames"), "train").augmentations == []


@pytest.mark.parametrize("workers", [0, 2])
def test_through_the_loader(data, workers):
    dataset = key_dataset(data, n_iters=3)
    assert len(dataset) == 3 * 18
    sampler = dataset.training_sampler(1, seed=0, global_batch=1, rank=0, world_size=1)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=collate_training)
    batches = list(loader)
    order = [key.sample for (key,) in EpochBatchSampler(3, 1, seed=0)]  # as any three samples are shuffled
    assert [batch["id"] for batch in batches] == [[p.id for p in dataset.draw(0, item)] for item in order]
    assert batches[0]["inputs"]["video"].shape == (18, 3, 1, 16, 16) and batches[0]["bad"] == []


def test_a_recording_that_breaks_costs_only_its_own_pictures(data, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    recordings = [replace(data.recordings[0], id="broken", path=str(broken)), *data.recordings[1:]]
    dataset = key_dataset(replace(data, recordings=recordings))
    drawn = dataset.draw(0, 0)
    own = [picture for picture in drawn if picture.path == str(broken)]
    batch = collate_training(dataset.__getitems__(requests_of(dataset, 0, 0)))
    assert own and [(bad.id, bad.path) for bad in batch["bad"]] == [(picture.id, str(broken)) for picture in own]
    assert batch["id"] == [picture.id for picture in drawn if picture not in own]
    assert isinstance(dataset[SampleRequest(0, drawn.index(own[0]))], BadClip)


def test_evaluation_is_every_key_frame_once(data):
    dataset = key_dataset(data, training=False)
    assert len(dataset) == len(data.recordings)
    counts, item = np.zeros(len(dataset.class_names), int), None
    for index, one in enumerate(data.recordings):
        item = dataset[index]
        assert item["id"] == one.id and item["inputs"]["video"].shape == (len(item["label"]), 3, 1, 16, 16)
        assert (np.diff(item["frames"]) > 0).all()
        counts += np.bincount(item["label"], minlength=len(counts))
    assert counts.tolist() == dataset.class_counts() and counts[0] > 0


def test_states_that_are_no_class_are_left_out(data, caplog):
    with caplog.at_level(logging.INFO):
        dataset = key_dataset(data, class_names=["background", "000", "100"], n_classes=0)
    assert {picture.label for picture in dataset.draw(0, 0)} == {0, 1, 2}
    assert "that are no class are left out" in caplog.text and "'111'" in caplog.text


def test_classes_come_from_the_data_or_from_training(data):
    assert state_classes(data, 5) == ["background", "000", "100", "101", "110", "111"]
    own = state_classes(replace(data, state_names=[]), 5)
    shown = {"".join(map(str, state)) for one in data.recordings for _, state in one.states if -1 not in state}
    assert own == ["background", *sorted(shown)]


def test_synthetic_pictures_fill_a_batch(data, tmp_path):
    for name in ("100", "111"):
        (tmp_path / name).mkdir()
        for i in range(9):
            Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / name / f"{i}.png")
    dataset = key_dataset(data, synthetic=str(tmp_path), n_synth=2, n_classes=0)
    made = Counter(p.label for p in dataset.draw(0, 0) if p.id.startswith("synthetic/"))
    assert made == {dataset.class_names.index("100"): 2, dataset.class_names.index("111"): 2}
    assert set(Counter(p.label for p in dataset.draw(0, 0) if p.label).values()) == {6}, (
        "the others take more real ones"
    )
    assert dataset[SampleRequest(0, 0)][0]["inputs"]["video"].shape == (3, 1, 16, 16)
    assert {len(dataset.draw(0, batch)) for batch in range(5)} == {dataset.size}
    with pytest.raises(DataError, match=r"SYNTH_DIR .*nothing.* has no folder"):
        key_dataset(data, synthetic=str(tmp_path / "nothing"), n_synth=2)


def test_batches_that_cannot_be_drawn(data):
    with pytest.raises(DataError, match=r"5 states have pictures, KEYSTEP.CONTRAST.N_CLASSES is 9"):
        key_dataset(data, n_classes=9)
    with pytest.raises(DataError, match=r"no recording has a background frame"):
        key_dataset(data, offset=(90, 80))
