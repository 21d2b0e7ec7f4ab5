"""Laws that hold for the numbers of every registered model, whatever it computes."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from dust.models.layers.window_attention import log_offsets, relative_index, window_masks
from tests.models.small_models import OTHERS, SMALL, inputs_of, make

WINDOWS = next(arguments for name, arguments, _ in OTHERS if name == "KeyStepVideo")["temporal"]
#: What makes a model draw in training, where it is not drop_rate and drop_path_rate.
RATES = {
    "VJEPA2": {"drop_path_rate": 0.4},
    "TemporalEncoder": {"dropout": 0.2},
    "KeyStepVideo": {"temporal": {**WINDOWS, "dropout": 0.2}},
    "KeyStepFrameEncoder": {},  # timm's encoders are taken without dropout
    "Probe": {},  # its backbone has rates of its own
    "VideoMAEPretrain": {},  # its mask is drawn
    "MViT": {"drop_path_rate": 0.4, "dropout_rate": 0.2},
    "ClipMoments": {"drop_rate": 0.4},
    **{name: {"dropout_rate": 0.4} for name in ("SlowFast", "ResNet", "X3D", "TorchvisionVideo", "HuggingFaceVideo")},
}
#: They are small, or not trained.
NO_CHECKPOINTING = {"PointTrackTransformer", "PointTrackLSTM", "CLIPZeroShot", "SeriesRocket"}
#: Whose forward pass Dynamo cannot take whole, and why.
NO_COMPILING = {
    "PointTrackLSTM": "an LSTM",
    "VideoMAEPretrain": "how many tokens are seen depends on the mask",
    "TorchvisionVideo": "it can, but S3D's 77 batch norms take a quarter of a minute",
    "TSTL": "which experts see a clip depends on the selector's answer",
}
#: Whose way depends on numbers; and torchvision's, which keep nothing.
NO_FAKES = ("VideoMAEPretrain", "TSTL", "TorchvisionVideo")


#: The arguments of each class's last variant.
LAST = {name: arguments for name, arguments, _ in SMALL + OTHERS}


def models_but(*without, slow=()):
    cases = [
        pytest.param(*case, id=f"{case[0]}-{number}", marks=pytest.mark.slow if case[0] in slow else ())
        for number, case in enumerate(SMALL + OTHERS)
        if case[0] not in without
    ]
    return pytest.mark.parametrize(("name", "arguments", "shapes"), cases)


def answers(outputs):
    """The fractions that a model gives, as one vector; TSTL's -inf, for classes that no expert knows, aside."""
    parts = outputs.values() if isinstance(outputs, dict) else [outputs]
    flat = torch.cat([part.flatten() for part in parts if part.is_floating_point()])
    return flat[~flat.isneginf()]


def gradients(model, inputs):
    """(answers, name -> gradient) of a loss that asks every answer another thing."""
    flat = answers(model(**inputs))
    (flat.square() * torch.linspace(0.5, 1.5, len(flat), dtype=flat.dtype)).sum().backward()
    return flat.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def distance(found, expected):
    """|found - expected| / |expected|, in float64."""
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))


@models_but("TorchvisionVideo")  # S3D's last batch norms see two values of a small clip, and keep but their order
def test_gradients_in_float32_are_those_in_float64(name, arguments, shapes):
    # of twice as many clips: a batch norm over few values makes rounding many times larger
    inputs = inputs_of({key: (2 * shape[0], *shape[1:]) for key, shape in shapes.items()})
    single, double = make(name, arguments).train(), make(name, arguments).double().train()
    results = []
    for model, given in ((single, inputs), (double, {key: value.double() for key, value in inputs.items()})):
        torch.manual_seed(7)  # of masks
        results.append(gradients(model, given))
    (found, of_single), (expected, of_double) = results
    assert found.dtype == torch.float32 and expected.dtype == torch.float64 and expected.isfinite().all()
    assert distance(found, expected) < 1e-5 and of_single.keys() == of_double.keys() != set()
    largest = max(float(gradient.norm()) for gradient in of_double.values())
    for key, gradient in of_double.items():
        error = float((of_single[key].double() - gradient).norm())
        # what a norm behind it takes away again has a gradient of zero, of which only rounding is left
        assert error < 1e-4 * float(gradient.norm()) + 1e-7 * largest, key


@models_but()
def test_clips_do_not_see_each_other(name, arguments, shapes):
    model, inputs = make(name, arguments).eval(), inputs_of(shapes)
    clips = len(next(iter(inputs.values())))
    whole = model(**inputs)
    for clip in range(clips):
        alone = model(**{key: value[clip : clip + 1] for key, value in inputs.items()})
        ours = (
            {key: value[clip : clip + 1] if value.ndim else alone[key] for key, value in whole.items()}
            if isinstance(whole, dict)
            else whole[clip : clip + 1]
        )
        torch.testing.assert_close(ours, alone, atol=1e-5, rtol=0)


@models_but()
def test_bf16_autocast_is_within_1_1_percent(name, arguments, shapes):
    model = make(name, arguments).eval()
    inputs = inputs_of({key: (8, *shape[1:]) for key, shape in shapes.items()})
    with torch.no_grad():
        expected = answers(model(**inputs))
        with torch.autocast("cpu", torch.bfloat16):
            found = answers(model(**inputs))
    assert not torch.equal(found.float(), expected), "autocast must have been on"
    assert distance(found, expected) < 0.011


@models_but("TorchvisionVideo")
def test_what_an_inference_keeps_serves_a_training(name, arguments, shapes):
    """Tables that a model makes when it sees a size for the first time are of that moment's kind of tensors."""
    for function in (window_masks, relative_index, log_offsets):
        function.cache_clear()
    inputs, model = inputs_of(shapes), make(name, arguments)
    with torch.inference_mode():
        model.eval()(**inputs)
    gradients(model.train(), inputs)


@models_but(*NO_FAKES)
def test_what_a_fake_pass_leaves_serves_a_real_one(name, arguments, shapes):
    """Shapes alone go through a model where its memory or its cost is asked for, before and after real clips."""
    for function in (window_masks, relative_index, log_offsets):
        function.cache_clear()
    inputs, model = inputs_of(shapes), make(name, arguments)
    mode = FakeTensorMode()
    state = {key: mode.from_tensor(value) for key, value in [*model.named_parameters(), *model.named_buffers()]}
    fakes = {key: mode.from_tensor(value) for key, value in inputs.items()}
    for _ in range(2):
        with mode, torch.no_grad():
            found = torch.func.functional_call(model, state, args=(), kwargs=fakes)
        assert all(isinstance(part, FakeTensor) for part in (found.values() if isinstance(found, dict) else [found]))
        assert type(gradients(model.train(), inputs)[0]) is torch.Tensor


@models_but(*NO_CHECKPOINTING)
def test_activation_checkpointing_changes_no_bit_in_training(name, arguments, shapes):
    inputs, rates = inputs_of(shapes), RATES.get(name, {"drop_path_rate": 0.4, "drop_rate": 0.2})
    results = []
    for act_checkpoint in (False, True):
        model = make(name, arguments, act_checkpoint=act_checkpoint, **rates).train()
        torch.manual_seed(7)
        results.append(gradients(model, inputs))
    (plain, of_plain), (again, of_again) = results
    assert torch.equal(plain, again) and of_plain.keys() == of_again.keys() != set()
    assert all(torch.equal(of_plain[key], of_again[key]) for key in of_plain)
    if rates:
        torch.manual_seed(8)
        assert not torch.equal(answers(model(**inputs)), plain), "something must have been drawn"


@models_but(*NO_COMPILING, slow=("SlowFast", "X3D", "MViT", "VJEPA2", "CAST", "VideoSwin", "DualSwinFusion"))
def test_compiles_whole(name, arguments, shapes):
    """The forward pass of every variant; of each class's last one as AOT autograd traces it, and its backward pass."""
    torch._dynamo.reset()  # else another variant's shapes make these dynamic, which costs several times as much
    inputs = inputs_of(shapes)
    model = make(name, arguments).eval()
    last = arguments is LAST[name]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager" if last else "eager")
    with torch.set_grad_enabled(last):
        expected, found = answers(model(**inputs)), answers(compiled(**inputs))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    if found.requires_grad:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        ours, theirs = (torch.autograd.grad(flat.sum(), trained, allow_unused=True) for flat in (found, expected))
        for gradient, plain in zip(ours, theirs, strict=True):
            torch.testing.assert_close(gradient, plain, atol=1e-4, rtol=1e-3)
