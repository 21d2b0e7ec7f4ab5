"""TorchScript archives to safetensors: only with the right hash, only in a child, and nothing but tensors."""

import hashlib
import os
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from dust import zoo
from dust.cli import zoo as command
from dust.models.clip_vit import CLIPVisual
from dust.utils.checkpoint import load_weights
from dust.utils.errors import CheckpointError, DustError
from dust.zoo import convert as module
from dust.zoo.convert import convert


def small_clip():
    return CLIPVisual(input_resolution=16, patch_size=8, width=64, layers=1, heads=1, output_dim=8)


class Nested(torch.nn.Module):
    """A module whose state dict has the names and tensors of ``state``, as OpenAI's program has."""

    def __init__(self, state):
        super().__init__()
        for key, tensor in state.items():
            first, _, rest = key.partition(".")
            if not rest:
                self.register_buffer(first, tensor)
        children = {key.partition(".")[0] for key in state if "." in key}
        for child in sorted(children):
            inner = {key[len(child) + 1 :]: tensor for key, tensor in state.items() if key.startswith(child + ".")}
            self.add_module(child, Nested(inner))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    state = {f"visual.{name}": torch.randn_like(value).half() for name, value in small_clip().state_dict().items()}
    state["text_projection"] = torch.randn(3, 2)
    state["visual.class_embedding"] = state["visual.class_embedding"].float()  # as published: some stay in fp32
    return state


@pytest.fixture
def program(weights, tmp_path):
    path = tmp_path / "ViT-tiny.pt"
    torch.jit.script(Nested(weights)).save(str(path))
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_kept(path, expected):
    written = load_file(path)
    assert set(written) == set(expected)
    for name, tensor in expected.items():
        assert written[name].dtype == tensor.dtype
        assert torch.equal(written[name], tensor), name


def test_the_image_tower_is_kept_bit_for_bit_and_loads(program, weights, tmp_path):
    out = tmp_path / "new" / "clip.safetensors"
    visual = {name: tensor for name, tensor in weights.items() if name.startswith("visual.")}
    assert convert(program, out, sha256=sha256(program).upper()) == len(visual)
    assert_kept(out, visual)
    assert os.listdir(out.parent) == [out.name]
    model = small_clip()
    assert not load_weights(model, out).missing
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[f"visual.{name}"].float()), name


def test_all_keeps_all(program, weights, tmp_path):
    out = tmp_path / "clip.safetensors"
    assert convert(program, out, sha256=sha256(program), everything=True) == len(weights)
    assert_kept(out, weights)


@pytest.fixture
def never_opened(monkeypatch):
    def run(*_, **__):
        raise AssertionError("the program was opened")

    monkeypatch.setattr(module.subprocess, "run", run)


@pytest.mark.usefixtures("never_opened")
def test_the_hash_may_stand_in_the_zoo(program, tmp_path, monkeypatch):
    known = zoo.ENTRIES["clip_vit_b16"]
    with pytest.raises(CheckpointError, match=known.sha256):
        convert(program.rename(tmp_path / "ViT-B-16.pt"), tmp_path / "clip.safetensors")
    url = f"https://example.org/{program.name}"
    program = (tmp_path / "ViT-B-16.pt").rename(program)
    entry = type(known)(**{**vars(known), "urls": (url,), "sha256": sha256(program)})
    monkeypatch.setitem(zoo.ENTRIES, known.name, entry)
    with pytest.raises(AssertionError, match="was opened"):
        convert(program, tmp_path / "clip.safetensors")


def refused(match, *args, **options):
    """Nothing was written, and above all nothing was opened."""
    with pytest.raises(CheckpointError, match=match):
        convert(*args, **options)


@pytest.mark.usefixtures("never_opened")
class TestRefused:
    def test_no_hash(self, program, tmp_path):
        refused("give --sha256", program, tmp_path / "o.safetensors")

    def test_a_folder_named_by_the_hash_of_its_own_file_proves_nothing(self, program, tmp_path):
        folder = tmp_path / sha256(program)
        folder.mkdir()
        refused("give --sha256", program.rename(folder / program.name), tmp_path / "o.safetensors")

    @pytest.mark.parametrize("special", ["pipe", "/dev/zero"])
    def test_a_pipe_or_a_device(self, tmp_path, special):
        path = tmp_path / special
        if special == "pipe":
            os.mkfifo(path)
        refused("there is no such file", path, tmp_path / "o.safetensors", sha256="0" * 64)

    def test_another_hash(self, program, tmp_path):
        refused(f"is {sha256(program)}, expected {'0' * 64}", program, tmp_path / "o.safetensors", sha256="0" * 64)
        assert not (tmp_path / "o.safetensors").exists()

    def test_a_changed_byte(self, program, tmp_path):
        right = sha256(program)
        content = bytearray(program.read_bytes())
        content[len(content) // 2] ^= 1
        program.write_bytes(content)
        refused("it is not opened", program, tmp_path / "o.safetensors", sha256=right)

    @pytest.mark.parametrize("bad", ["abc", "g" * 64, "0" * 63])
    def test_a_text_that_is_no_hash(self, program, tmp_path, bad):
        refused("64 hexadecimal digits", program, tmp_path / "o.safetensors", sha256=bad)

    def test_ordinary_weights(self, tmp_path):
        path = tmp_path / "weights.pth"
        torch.save({"visual.proj": torch.ones(2)}, path)
        refused("needs no conversion", path, tmp_path / "o.safetensors", sha256=sha256(path))

    @pytest.mark.parametrize("content", [b"", b"<html>", b"\x80\x02}q\x00."])
    def test_other_files(self, tmp_path, content):
        path = tmp_path / "weights.pt"
        path.write_bytes(content)
        refused("no TorchScript archive", path, tmp_path / "o.safetensors", sha256=sha256(path))

    def test_no_file(self, tmp_path):
        refused("no such file", tmp_path / "none.pt", tmp_path / "o.safetensors")

    def test_an_output_of_another_kind(self, program, tmp_path):
        refused("must end in .safetensors", program, tmp_path / "o.pth", sha256=sha256(program))

    def test_an_output_that_is_there(self, program, tmp_path):
        out = tmp_path / "o.safetensors"
        out.write_bytes(b"mine")
        refused("is there already", program, out, sha256=sha256(program))
        assert out.read_bytes() == b"mine"


def test_a_program_without_an_image_tower(tmp_path):
    path, out = tmp_path / "text.pt", tmp_path / "o.safetensors"
    torch.jit.script(Nested({"text_projection": torch.ones(2)})).save(str(path))
    refused(r"no tensor named visual\.\* \(--all", path, out, sha256=sha256(path))
    assert not out.exists()


def test_an_archive_that_torch_cannot_read(tmp_path):
    path, out = tmp_path / "odd.pt", tmp_path / "o.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("odd/constants.pkl", b"x")
        archive.writestr("odd/code/a.py", b"x")
    refused("torch cannot read", path, out, sha256=sha256(path))
    assert not out.exists()


def test_command_line(program, tmp_path, capsys):
    out = tmp_path / "clip.safetensors"
    words = ["convert", str(program), "--out", str(out)]
    assert command.main(words) == 2
    assert "give --sha256" in capsys.readouterr().err
    assert command.main([*words, "--sha256", sha256(program)]) == 0
    assert f"{out}: {len(load_file(out))} tensors" in capsys.readouterr().out


def test_resolving_a_program_gives_its_tensors_made_once(program, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("DUST_HOME", str(tmp_path / "home"))
    known = zoo.ENTRIES["clip_vit_b16"]
    entry = type(known)(**{**vars(known), "sha256": sha256(program)})
    monkeypatch.setitem(zoo.ENTRIES, known.name, entry)
    cached = zoo.cached_path(entry)
    cached.parent.mkdir(parents=True)
    program.rename(cached)
    path = zoo.resolve("zoo://clip_vit_b16")
    assert_kept(path, weights)
    monkeypatch.setattr(module.subprocess, "run", None)
    assert zoo.resolve("zoo://clip_vit_b16") == path and zoo.download("clip_vit_b16") == cached
    cached.write_bytes(b"PK\x03\x04 another program")
    with pytest.raises(DustError, match="is not 'clip_vit_b16'"):
        zoo.resolve("zoo://clip_vit_b16")


def test_a_name_of_before_still_holds(caplog):
    assert zoo.get("clip_vit_b16_openai").name == "clip_vit_b16"
    assert "is called zoo://clip_vit_b16 now" in caplog.text
