"""Reading what others wrote: nothing is executed, causes are named, a report says what became of each tensor."""

import argparse
import collections
import io
import logging
import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dust.utils.checkpoint import load_weights, pickle_globals, read_checkpoint
from dust.utils.errors import CheckpointError


class Net(nn.Module):
    def __init__(self, classes=3, width=8):
        super().__init__()
        self.body = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, classes)


def weights_of(seed=0, **sizes):
    torch.manual_seed(seed)
    return {key: value.clone() for key, value in Net(**sizes).state_dict().items()}


# --------------------------------------------------------------------------------------------------- containers


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"state_dict": {"module." + key: value for key, value in w.items()}, "epoch": 3},
        lambda w: {"model_state": {"model." + key: value for key, value in w.items()}, "epoch": 3, "cfg": "A: 1"},
        lambda w: {"model_state": w, "optimizer_state": {"state": {0: {"exp_avg": torch.ones(2)}}}},
        lambda w: {"model": w, "args": argparse.Namespace(lr=0.1, path=pathlib.Path("/tmp/x"))},
        lambda w: {"module": w},
        lambda w: {"model": {"_orig_mod.module." + key: value for key, value in w.items()}},
        lambda w: collections.OrderedDict({"module.model." + key: value for key, value in w.items()}),
    ],
)
@pytest.mark.parametrize("as_file", [True, False])
def test_every_container(tmp_path, wrap, as_file):
    weights, model = weights_of(1), Net()
    data = wrap(weights)
    if as_file:
        torch.save(data, tmp_path / "w.pth")
        data = tmp_path / "w.pth"
    report = load_weights(model, data, strict=True)
    assert report.complete and report.loaded == list(weights)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_a_models_own_prefix_is_kept():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = Net()

    assert load_weights(Wrapped(), Wrapped().state_dict(), strict=True).complete


def test_a_parallel_model_is_unwrapped():
    model = nn.DataParallel(Net())
    load_weights(model, weights_of(1), strict=True)
    assert torch.equal(model.module.body.weight, weights_of(1)["body.weight"])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("mmap", [True, False])
def test_old_and_new_torch_files(tmp_path, zipped, mmap):
    torch.save(weights_of(1), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_checkpoint(tmp_path / "w.pth", mmap=mmap)["body.weight"], weights_of(1)["body.weight"])


def test_harmless_values_beside_the_weights(tmp_path):
    counts = collections.defaultdict(list)
    counts["a"].append(1)
    data = {
        "model": weights_of(1),
        "best": np.float64(0.5),
        "steps": np.int64(7),
        "args": argparse.Namespace(a=1),
        "path": pathlib.Path("a/b"),
        "windows": pathlib.PureWindowsPath("c:/x"),
        "counts": counts,
    }
    torch.save(data, tmp_path / "w.pth")
    read = read_checkpoint(tmp_path / "w.pth")
    assert (read["best"], read["steps"], read["args"].a, read["counts"]) == (0.5, 7, 1, {"a": [1]})
    assert str(read["path"]) == "a/b" and str(read["windows"]) == "c:\\x"


def test_safetensors_under_any_name(tmp_path):
    for name in ("model.safetensors", "weights.bin"):
        save_file(weights_of(1), tmp_path / name)
        assert load_weights(Net(), tmp_path / name, strict=True).complete


# ------------------------------------------------------------------------------------------------------ security


class Poison:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def poisons(canary):
    yield "posix.system", Poison(os.system, f"touch {canary}")
    yield "builtins.exec", Poison(exec, f"open({str(canary)!r}, 'w')")
    yield "builtins.eval", Poison(eval, f"open({str(canary)!r}, 'w')")
    yield "io.open", Poison(io.open, str(canary), "w")
    yield "pathlib.Path.touch", Poison(pathlib.Path.touch, pathlib.Path(canary))
    yield "builtins.getattr", Poison(getattr, pathlib.Path(canary), "touch")
    yield "builtins.__import__", Poison(__import__, "antigravity")


@pytest.mark.parametrize("form", ["zip", "legacy", "bare-0", "bare-2", "bare-4", "nested"])
@pytest.mark.parametrize("number", range(7))
def test_no_pickle_is_executed(tmp_path, form, number):
    canary, path = tmp_path / "canary", tmp_path / "w.pth"
    name, poison = list(poisons(canary))[number]
    data = {"state_dict": weights_of(), "extra": poison}
    if form == "zip":
        torch.save(data, path)
    elif form == "legacy":
        torch.save(data, path, _use_new_zipfile_serialization=False)
    elif form == "nested":
        torch.save({"args": argparse.Namespace(x=[{"y": poison}])}, path)
    else:
        path.write_bytes(pickle.dumps(poison, protocol=int(form[-1])))
    with pytest.raises(CheckpointError) as error:
        load_weights(Net(), path)
    text = str(error.value)
    assert "refused" in text and "nothing in it was executed" in text and "safetensors" in text and str(path) in text
    assert name.split(".")[-1] in text or "getattr" in text
    assert not canary.exists()


def test_the_poison_works_where_it_is_let_in(tmp_path):
    """Else the test above would prove nothing."""
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Poison(io.open, str(canary), "w"))).close()
    assert canary.exists()


def test_globals_are_listed_without_opening_anything(tmp_path):
    torch.save({"a": Poison(os.system, "true"), "b": nn.Linear(1, 1), "c": torch.ones(1)}, tmp_path / "w.pth")
    found = pickle_globals(tmp_path / "w.pth")
    assert {"posix.system", "torch.nn.modules.linear.Linear", "torch._utils._rebuild_tensor_v2"} <= set(found)


def test_a_whole_pickled_model_is_refused_with_the_way_out(tmp_path):
    torch.save(Net(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"test_weights\.Net.*throw-away environment.*safetensors"):
        read_checkpoint(tmp_path / "model.pt")


def test_torchscript_is_named(tmp_path):
    # as torch.jit.save lays it out; torch.jit itself is on its way out of torch
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        for name in ("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py", "m/version"):
            archive.writestr(name, b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_checkpoint(tmp_path / "m.pt")


# -------------------------------------------------------------------------------------------------- unusable files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\0" * 4096, "is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\n  <HTML><body>Quota exceeded", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git-lfs"),
        (b"not weights", "is a text file \\('not weights'\\), not weights"),
        (b"path,label\na.mp4,0\n", "is a text file"),
        ("Gewichte später".encode(), "is a text file"),
        (bytes(range(256)) * 40, "cannot be read"),
        (b"PK\x03\x04 and then nothing", "truncated or damaged"),
    ],
)
def test_what_is_no_weight_file_is_named(tmp_path, content, words):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)
    assert "weights_only" not in str(error.value), "torch's advice to read it without its guard is nobody's way out"


def test_missing_folder_and_foreign_zip(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / "absent.pth")
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(CheckpointError, match="is a folder.*weights.safetensors"):
        read_checkpoint(tmp_path)
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(CheckpointError, match="zip file without torch's data.pkl"):
        read_checkpoint(tmp_path / "a.npz")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        read_checkpoint(tmp_path / "list.pth")


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_truncation_at_any_length_is_an_error(tmp_path, form):
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(weights_of(), path)
    else:
        torch.save(weights_of(), path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    for length in [*range(0, 40), *range(40, len(whole), max(1, len(whole) // 60)), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"w\."):
            read_checkpoint(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_flipped_bytes_never_raise_anything_but_our_error(tmp_path, form):
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(weights_of(), path)
    else:
        torch.save({"model": weights_of(), "args": argparse.Namespace(a=np.float64(1))}, path,
                   _use_new_zipfile_serialization=form == "zip")  # fmt: skip
    whole, rng, refused = path.read_bytes(), np.random.RandomState(0), 0
    for _ in range(150):
        damaged = bytearray(whole)
        for position in rng.randint(0, min(len(whole), 2500), 3):
            damaged[position] = rng.randint(256)
        path.write_bytes(damaged)
        try:
            load_weights(Net(), path)
        except CheckpointError:
            refused += 1
    assert refused > 50


# ------------------------------------------------------------------------------------------------------- the report


def test_missing_unexpected_and_misshapen_are_all_reported(caplog):
    weights = weights_of(1, classes=5)
    del weights["norm.bias"]
    weights["old.scale"] = torch.ones(2)
    model = Net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with caplog.at_level(logging.INFO, logger="dust"):
        report = load_weights(model, weights)
    assert report.missing == ["norm.bias"] and report.unexpected == ["old.scale"]
    assert report.misshapen == [("head.weight", (5, 8), (3, 8)), ("head.bias", (5,), (3,))]
    assert not report.complete and report.fresh_head
    assert set(report.loaded) == set(before) - {"norm.bias", "head.weight", "head.bias"}
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key] if key in report.loaded else before[key])
    for text in (str(report), caplog.text):
        for word in ("norm.bias", "old.scale", "head.weight is (5, 8) in the file and (3, 8) in the model", "6 of"):
            assert word in text


def test_a_part_without_a_head_takes_a_whole_models_file_without_a_warning(caplog):
    """As a stage does that begins from another one's backbone; anything else that is left over is a warning."""
    backbone = nn.ModuleDict({name: part for name, part in Net().named_children() if name != "head"})
    for more, level in (({}, logging.INFO), ({"old.scale": torch.ones(2)}, logging.WARNING)):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="dust"):
            load_weights(backbone, {**weights_of(1), **more})
        assert [record.levelno for record in caplog.records if "tensors fit" in record.message] == [level]


def test_strict_loads_all_or_nothing():
    weights, model = weights_of(1), Net()
    before = model.body.weight.clone()
    with pytest.raises(CheckpointError, match=r"(?s)strict.*nothing was loaded.*extra"):
        load_weights(model, {**weights, "extra": torch.ones(1)}, strict=True)
    assert torch.equal(model.body.weight, before)


@pytest.mark.parametrize("weights", [weights_of(width=16), {"conv1.weight": torch.ones(3), "fc.bias": torch.ones(2)}])
def test_a_file_that_fits_nowhere_is_an_error_that_names_both_sides(weights):
    model = Net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_weights(model, weights)
    assert next(iter(weights)) in str(error.value) and "body.weight" in str(error.value) and "Net" in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_file_without_tensors():
    with pytest.raises(CheckpointError, match=r"no tensors.*epoch, cfg"):
        load_weights(Net(), {"epoch": 1, "cfg": "x"})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_run_that_diverged_are_refused(value):
    weights, model = weights_of(1), Net()
    weights["body.bias"][2] = value
    before = model.body.weight.clone()
    with pytest.raises(CheckpointError, match=r"NaN or infinity in body\.bias"):
        load_weights(model, weights)
    assert torch.equal(model.body.weight, before)


def test_half_precision_files_fill_single_precision_models():
    weights = {key: value.half() if value.is_floating_point() else value for key, value in weights_of(1).items()}
    model = Net()
    load_weights(model, weights, strict=True)
    assert model.body.weight.dtype == torch.float32
    assert torch.equal(model.body.weight, weights["body.weight"].float())


def test_buffers_are_loaded_too():
    weights, model = weights_of(1), Net()
    weights["norm.running_mean"] += 3
    weights["norm.num_batches_tracked"] += 9
    load_weights(model, weights)
    assert (model.norm.running_mean == 3).all() and model.norm.num_batches_tracked == 9
