import pytest
import torch
from torch import nn

from dust.datasets.sample import BadClip
from dust.engine.inference import Inference
from dust.tasks.classification import Classification


class Weigher(nn.Module):
    """A function of each view alone; notes how many views came at a time, and whether it was in eval mode."""

    def __init__(self):
        super().__init__()
        self.sizes, self.modes = [], []

    def forward(self, video):
        self.sizes.append(len(video))
        self.modes.append(self.training)
        return torch.stack([video.float().mean((1, 2, 3, 4)), video.float().amax((1, 2, 3, 4))], dim=1)


class AsIs:
    def __call__(self, batch, *, training):
        assert not training
        return batch


def items(views_of_each, size=4):
    generator = torch.Generator().manual_seed(0)
    for index, views in enumerate(views_of_each):
        video = torch.randint(0, 255, (views, 3, 2, size, size), dtype=torch.uint8, generator=generator)
        yield {"inputs": {"video": video}, "label": index, "id": f"v{index}", "path": f"v{index}.mp4"}


def run(model, data, micro_batch, **kwargs):
    task = Classification(class_names=["a", "b"])
    loop = Inference(model, task.forward, AsIs(), torch.device("cpu"), micro_batch, **kwargs)
    return list(loop(data))


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("views", [[1] * 5, [3, 3, 3], [30], [2, 1, 7, 1]])
def test_micro_batches_change_nothing(micro_batch, views):
    model = Weigher()
    records = run(model, items(views), micro_batch)
    assert [record["id"] for record in records] == [f"v{i}" for i in range(len(views))]
    for record, item in zip(records, items(views), strict=True):
        torch.testing.assert_close(record["outputs"], Weigher()(item["inputs"]["video"]))
        assert "inputs" not in record
    assert sum(model.sizes) == sum(views)
    assert set(model.sizes[:-1]) <= {micro_batch} and model.sizes[-1] <= micro_batch


def test_samples_of_another_size_wait_for_nobody():
    data = [*items([2, 2], size=4), *items([3], size=6), *items([1], size=4)]
    model = Weigher()
    assert [len(record["outputs"]) for record in run(model, data, 3)] == [2, 2, 3, 1]


def test_bad_clips_are_handed_out_and_left_out():
    seen = []
    data = list(items([1, 1]))
    data.insert(1, BadClip("x", "x.mp4", "broken"))
    records = run(Weigher(), data, 2, on_bad=seen.append)
    assert [record["id"] for record in records] == ["v0", "v1"]
    assert seen == [BadClip("x", "x.mp4", "broken")]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_in_eval_mode_and_back_afterwards(training):
    model = Weigher().train(training)
    run(model, items([2]), 1)
    assert model.modes == [False, False]
    assert model.training is training


def test_dict_outputs_are_cut_and_joined_by_name():
    class Named(nn.Module):
        def forward(self, video):
            mean = video.float().mean((1, 2, 3, 4))
            return {"mean": mean, "twice": 2 * mean[:, None]}

    records = run(Named(), items([3, 2]), 2)
    assert records[0]["outputs"]["mean"].shape == (3,)
    torch.testing.assert_close(records[1]["outputs"]["twice"][:, 0], 2 * records[1]["outputs"]["mean"])


def test_samples_can_be_kept_apart():
    model = Weigher()
    records = run(model, items([2, 1, 3]), 2, across_samples=False)
    assert [len(record["outputs"]) for record in records] == [2, 1, 3]
    assert model.sizes == [2, 1, 2, 1]


def test_a_loop_with_another_forward_pass_is_the_same_loop():
    stopped, model = [], Weigher()
    task = Classification(class_names=["a", "b"])
    loop = Inference(model, task.forward, AsIs(), torch.device("cpu"), 3, should_stop=lambda: stopped.append(1))
    doubled = loop.with_forward(lambda model, inputs: 2 * model(**inputs), micro_batch=1)
    for one, two in zip(loop(items([2])), doubled(items([2])), strict=True):
        torch.testing.assert_close(2 * one["outputs"], two["outputs"])
    assert model.sizes == [2, 1, 1] and len(stopped) == 3 and loop.micro_batch == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_outputs_that_are_not_finite_are_bad_clips(value):
    """One view of one sample suffices; its neighbours in the batch are as they were."""

    class Overflowing(Weigher):
        def forward(self, video):
            outputs = super().forward(video)
            outputs[video.flatten(1)[:, 0] == 255, 1] = value
            return outputs

    data, seen = list(items([2, 3, 1])), []
    data[1]["inputs"]["video"].flatten(1)[:] = 7
    data[1]["inputs"]["video"][2] = 255
    data[0]["inputs"]["video"].clamp_(max=254), data[2]["inputs"]["video"].clamp_(max=254)
    records = run(Overflowing(), data, 2, on_bad=seen.append)
    assert [record["id"] for record in records] == ["v0", "v2"]
    (bad,) = seen
    assert bad.id == "v1" and bad.path == "v1.mp4" and "not finite (1 of 6 values are" in bad.reason


def test_a_model_may_say_nothing_of_a_class():
    class Silent(nn.Module):
        silent_outputs = frozenset({"logits"})

        def forward(self, video):
            logits = torch.zeros(len(video), 2)
            logits[:, 1] = float("-inf")
            return {"logits": logits, "other": logits if video.amax() == 255 else torch.zeros(1)}

    data, seen = list(items([1, 1])), []
    data[0]["inputs"]["video"].clamp_(max=254)
    data[1]["inputs"]["video"][:] = 255
    assert [record["id"] for record in run(Silent(), data, 1, on_bad=seen.append)] == ["v0"]
    assert "1 of 2 values in other" in seen[0].reason
