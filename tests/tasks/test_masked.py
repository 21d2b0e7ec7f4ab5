"""The task of masked pre-training against the model's own loss."""

import pytest
import torch

from dust.models.videomae_pretrain import VideoMAEPretrain
from dust.tasks.build import TASK_REGISTRY
from dust.tasks.masked import Masked
from dust.utils.errors import DataError
from tests.helpers import csv_dicts, golden_tensors

SMALL = {
    "encoder_embed_dim": 24, "encoder_depth": 1, "encoder_num_heads": 2, "decoder_embed_dim": 24, "decoder_depth": 1,
    "decoder_num_heads": 2, "img_size": 16, "patch_size": 8, "num_frames": 4, "mask_ratio": 0.75,
}  # fmt: skip


def model_and_video():
    torch.manual_seed(0)
    return VideoMAEPretrain(**SMALL), torch.randn(3, 3, 4, 16, 16)


def test_training_minimises_the_models_own_loss():
    assert TASK_REGISTRY.get("Masked") is Masked
    model, video = model_and_video()
    task = Masked(**Masked.from_config(None, None))
    torch.manual_seed(5)
    outputs = task.forward(model.train(), {"video": video})
    (loss,) = task.losses(outputs, {}).values()
    torch.manual_seed(5)
    assert torch.equal(loss, model(video)["loss"])
    loss.backward()
    assert model.encoder.patch_embed.proj.weight.grad.any()
    assert (task.best_metric, task.higher_is_better) == ("loss", False)


def test_each_clip_has_its_own_loss_and_the_split_their_mean(tmp_path):
    model, video = model_and_video()
    task = Masked()
    with torch.no_grad():
        outputs = task.forward(model.eval(), {"video": video})
        alone = torch.stack([model(clip[None])["loss"] for clip in video])
    torch.testing.assert_close(outputs["loss"], alone)
    assert len(set(alone.tolist())) == 3
    evaluation = task.evaluation("val")
    evaluation.update({"id": "a", "path": "a.mp4", "label": 0, "outputs": {"loss": alone[:2]}})  # two views
    evaluation.update({"id": "b", "path": "b.mp4", "label": None, "outputs": {"loss": alone[2:]}})
    first, second = alone[:2].mean().item(), alone[2].item()
    assert evaluation.metrics() == {"loss": pytest.approx((first + second) / 2)}
    (path,) = evaluation.write(tmp_path)
    rows = csv_dicts(path)
    assert [row["id"] for row in rows] == ["a", "b"] and float(rows[0]["loss"]) == pytest.approx(first, rel=1e-5)
    evaluation.replace_records(evaluation.records()[1:])
    assert evaluation.metrics() == {"loss": pytest.approx(second)}


def test_golden_loss():
    facts, tensors = golden_tensors("videomae_pretrain_a")
    model = VideoMAEPretrain(**facts["args"]).train()
    model.load_state_dict({k.removeprefix("weight."): v for k, v in tensors.items() if k.startswith("weight.")})
    outputs = Masked().forward(model, {"video": tensors["input"], "mask": tensors["mask"].bool()})
    torch.testing.assert_close(outputs["loss"], tensors["loss"].squeeze(), atol=1e-5, rtol=0)


def test_nothing_evaluated():
    evaluation = Masked().evaluation("test")
    assert evaluation.metrics() == {}
    with pytest.raises(DataError, match="no clip was evaluated"):
        evaluation.write(None)
