"""Which kernels are chosen, by the settings that say it; what they compute is for a machine with a GPU."""

import logging
import os

import pytest
import torch
import torch.nn.functional as F

from dust.config import load_config
from dust.engine import backends, run_net
from dust.engine.backends import AttentionLog, Backends, without_deterministic_form
from dust.engine.run_dir import RunDir
from dust.engine.run_net import run_stage
from dust.engine.setup import build_for
from dust.engine.train import Trainer, build_trainer
from dust.launch.launcher import Launcher
from dust.tasks.task import Task
from dust.utils.errors import ConfigError
from dust.utils.registry import build
from tests.runs import words

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def settings():
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    return {
        "strict": torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "tf32": cudnn.allow_tf32,
        "cudnn": (cudnn.deterministic, cudnn.benchmark),
        "cudnn_sdp": cuda.cudnn_sdp_enabled(),
        "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Everything is as before afterwards."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is taken away again
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(backends, "_in_use", [])
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", torch.backends.cudnn.deterministic)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
    matmul, cudnn_sdp = torch.get_float32_matmul_precision(), torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cuda.enable_cudnn_sdp(cudnn_sdp)


def chosen(*words, device=CUDA):
    build(Backends, load_config(None, list(words))).use(device)
    return settings()


def test_by_default_gpus_use_tf32_and_flash():
    assert chosen() == {
        "strict": False, "matmul": "high", "tf32": True, "cudnn": (False, False), "cudnn_sdp": False, "workspace": None,
    }  # fmt: skip


def test_deterministic_is_strict_and_everything_that_it_takes():
    assert chosen("TRAIN.DETERMINISTIC", "True") == {
        "strict": True, "matmul": "highest", "tf32": False, "cudnn": (True, False), "cudnn_sdp": False,
        "workspace": ":4096:8",
    }  # fmt: skip
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert chosen("TRAIN.DETERMINISTIC", "True", "TRAIN.FLOAT32", "tf32")["matmul"] == "high", "that repeats too"
    with pytest.raises(ConfigError, match="TRAIN.SDPA cudnn: its backward pass is not deterministic"):
        load_config(None, ["TRAIN.DETERMINISTIC", "True", "TRAIN.SDPA", "cudnn"])


def test_cublas_is_told_before_a_stage_that_does_not_ask_for_it(clips, tmp_path, monkeypatch):
    """It looks once, in the first stage of the process."""
    for name, strict in (("first", False), ("second", True)):
        (tmp_path / f"{name}.yaml").write_text(f"TRAIN:\n  DETERMINISTIC: {strict}\n")
    met = []
    monkeypatch.setattr(Launcher, "run", lambda self, cfg, stage: met.append(settings()["workspace"]) or 0)
    files = ["--cfg", str(tmp_path / "first.yaml"), str(tmp_path / "second.yaml")]
    assert run_net.main([*files, *words(clips, tmp_path / "run")]) == 0
    assert met == [":4096:8", ":4096:8"]


def test_a_workspace_that_varies_is_refused(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    Backends().check()
    with pytest.raises(ConfigError, match="CUBLAS_WORKSPACE_CONFIG=:0:0 .* write :4096:8 or :16:8"):
        Backends(deterministic=True).check()


def test_what_one_stage_asks_for_does_not_last_into_the_next():
    chosen("TRAIN.DETERMINISTIC", "True")
    assert not chosen()["strict"] and not torch.backends.cudnn.deterministic


def test_what_a_program_has_set_itself_is_left_alone():
    torch.use_deterministic_algorithms(True)
    assert chosen()["strict"]


def test_the_other_choices():
    assert chosen("TRAIN.FLOAT32", "ieee")["matmul"] == "highest" and not torch.backends.cudnn.allow_tf32
    assert chosen("TRAIN.SDPA", "cudnn")["cudnn_sdp"] and chosen("TRAIN.SDPA", "auto")["cudnn_sdp"]


def test_a_cpu_is_left_as_it_is():
    """There a lower precision of float32 would change bits."""
    before = settings()
    assert chosen("TRAIN.FLOAT32", "tf32", device=CPU) == before
    assert chosen("TRAIN.DETERMINISTIC", "True", device=CPU) == {
        **before, "strict": True, "cudnn": (True, before["cudnn"][1]), "workspace": ":4096:8",
    }  # fmt: skip


def test_models_are_built_with_the_kernels_that_are_asked_for(tiny):
    build_for(tiny(TRAIN__DETERMINISTIC=True), CPU)
    assert settings()["strict"]


def test_an_operation_without_deterministic_form_is_named(tiny, monkeypatch):
    """max_unpool1d has none on any device."""
    forward = Task.forward

    def unpooled(self, model, inputs):
        logits = forward(self, model, inputs)
        pooled, places = F.max_pool1d(logits[:, None], 2, return_indices=True)
        return logits + F.max_unpool1d(pooled, places, 2, output_size=logits[:, None].shape)[:, 0]

    monkeypatch.setattr(Task, "forward", unpooled)
    cfg = tiny(TRAIN__DETERMINISTIC=True, TEST__ENABLE=False)
    with pytest.raises(ConfigError, match=r"TRAIN.DETERMINISTIC True: max_unpool\S* has no deterministic form"):
        run_stage(cfg)
    assert "max_unpool" in (RunDir(cfg.OUTPUT_DIR).path / "stdout.log").read_text()
    assert without_deterministic_form(RuntimeError("something else")) == ""
    said = "Deterministic behavior was enabled ... set CUBLAS_WORKSPACE_CONFIG=:4096:8"
    assert without_deterministic_form(RuntimeError(said)).startswith("cuBLAS")


def test_a_deterministic_run_on_the_cpu_has_the_same_bits(tiny):
    found = []
    for name, strict in (("plain", False), ("strict", True)):
        cfg = tiny(name, TRAIN__DETERMINISTIC=strict, SOLVER__MAX_EPOCH=1)
        trainer = build_trainer(cfg, RunDir(cfg.OUTPUT_DIR))
        trainer.fit()
        found.append(trainer.state.model.state_dict())
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_attention_says_once_which_kernel_it_gets(caplog):
    q, mask = torch.randn(2, 3, 5, 8), torch.zeros(5, 5)
    with caplog.at_level(logging.INFO, "dust.engine.backends"), AttentionLog():
        for _ in range(2):
            F.scaled_dot_product_attention(q, q, q)
        F.scaled_dot_product_attention(q, q, q, attn_mask=mask, dropout_p=0.0)
        with torch.autocast("cpu", torch.bfloat16):
            F.scaled_dot_product_attention(q, q, q)
            F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    said = [record.getMessage() for record in caplog.records]
    sizes = "attention of 3 heads of 8, 5 to 5 tokens"
    assert [text.rpartition(":")[0] for text in said] == [
        f"{sizes}, float32", f"{sizes}, float32, with a mask", f"{sizes}, bfloat16", f"{sizes}, bfloat16, with a mask",
    ]  # fmt: skip
    assert {text.rpartition(": ")[2] for text in said} <= {"math", "flash_attention"}


def test_the_first_pass_of_a_training_says_it(tiny, caplog):
    cfg = tiny(SOLVER__MAX_EPOCH=1, TRAIN__EVAL_PERIOD=0)
    trainer = build_trainer(cfg, RunDir(cfg.OUTPUT_DIR))
    assert isinstance(trainer, Trainer) and not trainer.learner.attention.wanted, "on a CPU there is nothing to choose"
    trainer.learner.attention = AttentionLog()
    with caplog.at_level(logging.INFO, "dust.engine.backends"):
        trainer.fit()
    assert sum("tokens" in record.getMessage() for record in caplog.records) == 2, "over time, and over space"
