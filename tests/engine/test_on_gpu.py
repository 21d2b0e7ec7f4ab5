"""What only a GPU can show. On a machine without one the same is asked of its CPU, so that no line fails for the first
time there; the tests marked gpu skip."""

import pytest
import torch

from dust.benchmark.gpu.right import for_gradients
from dust.benchmark.in_memory import BATCHES, in_memory_config
from dust.engine.backends import Backends
from dust.engine.hooks import Hook
from dust.engine.inference import Inference
from dust.engine.overlap import Feed
from dust.engine.run_dir import RunDir
from dust.engine.step import Diverged, OptimizerStep
from dust.engine.train import build_trainer
from dust.models.optimizer import build_optimizer
from tests.helpers import ROOT
from tests.models.small_models import SMALL, inputs_of, make

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]


@pytest.fixture
def kernels():
    """Chooses them, and puts everything back afterwards."""
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cuda.cudnn_sdp_enabled()
    yield lambda device, **chosen: Backends(**chosen).use(torch.device(device))
    Backends().use(torch.device("cpu"))
    torch.set_float32_matmul_precision(before[0])
    cudnn.allow_tf32 = before[1]
    cuda.enable_cudnn_sdp(before[2])


def total(outputs):
    outputs = outputs.values() if isinstance(outputs, dict) else [outputs]
    return sum((value.float() ** 2).mean() for value in outputs if value.is_floating_point())


def learnt(name, arguments, shapes, device, steps=2):
    """The weights of a small model after some steps, dropout included."""
    torch.manual_seed(0)
    model = make(name, arguments).train().to(device)
    inputs = {key: value.to(device) for key, value in inputs_of(shapes).items()}
    update = build_optimizer(model, name="adamw", lr=1e-3, weight_decay=0.0)
    step = OptimizerStep(model, update, batch_size=2)
    for number in range(steps):
        torch.manual_seed(number)
        step.backward(lambda: {"loss": total(model(**inputs))}, 2, last=True)
        step.step()
    step.check()
    return {key: value.cpu() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "arguments", "shapes"), SMALL, ids=[name for name, _, _ in SMALL])
def test_every_model_learns_the_same_bits_twice(kernels, device, name, arguments, shapes):
    """TRAIN.DETERMINISTIC. An operation that has no deterministic form raises, and is named."""
    kernels(device, deterministic=True)
    one, two = (learnt(name, arguments, shapes, device) for _ in range(2))
    torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize(("name", "arguments", "shapes"), SMALL, ids=[name for name, _, _ in SMALL])
def test_a_gpu_computes_what_a_cpu_does(kernels, name, arguments, shapes):
    """In float32 as IEEE has it: outputs, and gradients, those of biases of attention among them."""
    kernels("cuda", float32="ieee")
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = for_gradients(make(name, arguments)).to(device)
        loss = total(model(**{key: value.to(device) for key, value in inputs_of(shapes).items()}))
        loss.backward()
        found.append([loss.cpu(), *(one.grad.cpu() for one in model.parameters() if one.grad is not None)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_gradient_that_is_not_finite_is_met_without_waiting(name):
    model = torch.nn.Linear(4, 2, device="cuda")
    step = OptimizerStep(model, build_optimizer(model, name=name, lr=0.1, weight_decay=0.1), batch_size=3)
    x = torch.randn(3, 4, device="cuda")

    def learn():
        step.backward(lambda: {"loss": model(x).square().mean()}, 3, last=True)
        step.step()

    learn()
    before = model.weight.detach().clone()
    model.weight.register_hook(lambda gradient: gradient * float("nan"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        learn()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(model.weight, before)
    with pytest.raises(Diverged, match="those of weight"):
        step.check()


class Strict(Hook):
    """From the second log line on, a wait between two lines is an error."""

    def __init__(self, device, period):
        self.device, self.period, self.quiet = device, period, 0

    def after_step(self, state, step):
        following = step.iteration + 1
        quiet = following > self.period and following % self.period != 0 and following < step.iters
        self.quiet += quiet
        if self.device == "cuda":
            torch.cuda.set_sync_debug_mode("error" if quiet else "default")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("more", [[], ["EMA.ENABLED", "True", "MIXUP.ENABLE", "True", "GLOBAL_BATCH_SIZE", "4"]])
def test_a_training_waits_for_nothing_between_two_log_lines(kernels, tmp_path, monkeypatch, device, more):
    monkeypatch.setenv(BATCHES, "10")
    words = ["NUM_GPUS", str(int(device == "cuda")), "OUTPUT_DIR", str(tmp_path / "run"), "LOG_PERIOD", "4"]
    words += ["TRAIN.BATCH_SIZE", "2", "MODEL.NUM_CLASSES", "4", *more]
    cfg = in_memory_config(str(ROOT / "configs/quickstart/video.yaml"), [], *words)
    trainer = build_trainer(cfg, RunDir(tmp_path / "run"))
    strict = Strict(device, 4)
    trainer.hooks.append(strict)
    try:
        trainer.fit()
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert strict.quiet == 4 and trainer.state.updates == (5 if more else 10)


@pytest.mark.parametrize("device", DEVICES)
def test_micro_batches_in_flight_give_what_each_view_gives_alone(device):
    """From pinned memory, on a stream of its own, while the device is kept busy; so often that memory is used again."""
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randint(0, 256, (views, 3, 4, 32, 32), generator=generator) for views in [3, 1, 2, 5] * 8]
    items = [
        {"inputs": {"video": clip.pin_memory() if device == "cuda" else clip}, "label": 0, "id": str(i), "path": ""}
        for i, clip in enumerate(clips)
    ]

    def forward(model, inputs):
        busy = torch.ones(1024, 1024, device=device)
        for _ in range(8 if device == "cuda" else 0):
            busy = busy @ busy / 1024
        return inputs["video"].flatten(1).sum(dim=1).double()

    loop = Inference(torch.nn.Identity(), forward, lambda batch, *, training: batch, torch.device(device), 2)
    for record, clip in zip(loop(items), clips, strict=True):
        assert torch.equal(record["outputs"], clip.flatten(1).sum(dim=1).float())


@pytest.mark.gpu
@NO_GPU
def test_batches_are_brought_without_waiting_and_are_whole():
    feed, seen = Feed(torch.device("cuda")), []
    batches = [{"inputs": {"video": torch.full((64, 1024), n).pin_memory()}, "id": [n]} for n in range(32)]
    feed(batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            moved = feed(batch)
            seen.append(moved["inputs"]["video"].float().mean())
            del moved
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [one.item() for one in seen] == list(range(32))
