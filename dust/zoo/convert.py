"""OpenAI's CLIP files, which are TorchScript programs, and folders of parts as Hugging Face has them, to safetensors.

Reading such a program may run what stands in it. So it is read only if its SHA-256 is that of the file its publisher
named, and in a child process, which hands back tensors and nothing else.
"""

import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from dust.utils.errors import CheckpointError
from dust.utils.files import open_file, replacing
from dust.zoo.entries import ENTRIES

PREFIX = "visual."  # of the image transformer
TIMEOUT_S = 600.0  # for the child, which needs seconds
NOTHING_KEPT = 3  # the child's exit status where no tensor has such a name
_SHA256 = re.compile(r"[0-9a-f]{64}")
_READ = "from dust.zoo.convert import _child; _child()"


def convert(source: str | os.PathLike, out: str | os.PathLike, *, sha256: str = "", everything: bool = False) -> int:
    """Write the tensors of a TorchScript archive to ``out`` (.safetensors); the number of tensors written.

    Types and shapes stay as they are. Without ``everything`` only tensors named ``visual.*`` are kept, under these
    names, which CLIPVisual loads. A folder of weights in parts becomes one file of all tensors.

    Args:
        sha256: 64 hexadecimal digits that ``source`` must have. "" takes those of the zoo's entry for a file of that
            name. The names of the folders that a file lies in prove nothing: whoever made it named them.

    Raises:
        CheckpointError: a file that is no TorchScript archive, one whose hash is unknown or another, one without such
            tensors; ``out`` is then as it was.
    """
    source, out = Path(source), Path(out)
    if out.suffix != ".safetensors":
        raise CheckpointError(f"--out {out}: must end in .safetensors")
    if out.exists():
        raise CheckpointError(f"--out {out}: is there already; remove it or name another file")
    with tempfile.TemporaryDirectory(prefix="dust_convert_") as folder:
        if source.is_dir():
            return _join(source, Path(folder) / "tensors.safetensors", out)
        private = Path(folder) / "program.pt"
        _copy_verified(source, private, _expected(source, sha256))
        tensors = Path(folder) / "tensors.safetensors"
        count = _in_child(private, tensors, "" if everything else PREFIX, source)
        _put(tensors, out)
    return count


def _expected(source: Path, sha256: str) -> str:
    """Return the hash that ``source`` must have, of which somebody else than the file itself must have told."""
    _check_kind(source)
    sha256 = sha256.strip().lower()
    if sha256:
        if not _SHA256.fullmatch(sha256):
            raise CheckpointError(f"--sha256 {sha256}: a SHA-256 has 64 hexadecimal digits")
        return sha256
    named = [entry.sha256 for entry in ENTRIES.values() if entry.sha256 and entry.filename == source.name]
    if not named:
        raise CheckpointError(
            f"{source}: is a program, and is read only where its SHA-256 is known: give --sha256 with the one that its "
            "publisher shows (OpenAI: the hexadecimal digits in the file's URL on its own site)"
        )
    return named[0]


def _check_kind(source: Path) -> None:
    """Raise unless ``source`` looks like a TorchScript archive; by the names in it, with nothing read."""
    plain = "is no TorchScript archive, so it needs no conversion: name it as it is, for example in MODEL.PRETRAINED"
    if not source.is_file():
        raise CheckpointError(f"{source}: there is no such file")
    try:
        with open_file(source) as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, struct.error):
        raise CheckpointError(f"{source}: {plain} (or, if it is one, it is damaged: download it again)") from None
    if not any(name.endswith("/constants.pkl") for name in names) or not any("/code/" in name for name in names):
        raise CheckpointError(f"{source}: {plain}")


def _copy_verified(source: Path, private: Path, expected: str) -> None:
    """Copy and hash in one pass: what is opened later is what was hashed, even if ``source`` changes meanwhile."""
    digest = hashlib.sha256()
    try:
        with open_file(source) as reader, open(private, "wb") as writer:
            while block := reader.read(1 << 20):
                digest.update(block)
                writer.write(block)
    except OSError as error:
        raise CheckpointError(f"{source}: cannot be copied to {private.parent}: {error.strerror or error}") from error
    if digest.hexdigest() != expected:
        raise CheckpointError(
            f"{source}: its SHA-256 is {digest.hexdigest()}, expected {expected}; it is not opened. "
            "Download it again, or look up the hash where the file comes from"
        )


def _in_child(program: Path, tensors: Path, prefix: str, source: Path) -> int:
    command = [sys.executable, "-c", _READ, str(program), str(tensors), prefix]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise CheckpointError(f"{source}: could not be read within {TIMEOUT_S:.0f} s") from None
    if result.returncode == NOTHING_KEPT:
        what = f"no tensor named {prefix}* (--all keeps whatever it holds)" if prefix else "no tensor"
        raise CheckpointError(f"{source}: holds {what}; nothing was written")
    if result.returncode or not tensors.is_file():
        last = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
        raise CheckpointError(f"{source}: torch cannot read this TorchScript archive ({last})")

    from safetensors import safe_open

    with safe_open(str(tensors), framework="pt") as file:
        return len(file.keys())


def _child() -> None:
    """Run in the child process: argv holds the program, the file to write, and the names' prefix."""
    import torch
    from safetensors.torch import save_file

    program, tensors, prefix = sys.argv[1:]
    state = torch.jit.load(program, map_location="cpu").state_dict()
    kept = {
        # a copy, because tensors of a program may share memory, which safetensors does not store
        name: value.detach().clone().contiguous()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and name.startswith(prefix)
    }
    if not kept:
        sys.exit(NOTHING_KEPT)
    save_file(kept, tensors)


def _join(source: Path, tensors: Path, out: Path) -> int:
    """Join a folder's parts, which hold no program, into one file."""
    from safetensors.torch import save_file

    from dust.utils.checkpoint import read_checkpoint
    from dust.utils.checkpoint.tensors import find_tensors

    state = find_tensors(str(source), read_checkpoint(source), [])
    save_file({name: value.clone().contiguous() for name, value in state.items()}, tensors)
    _put(tensors, out)
    return len(state)


def _put(tensors: Path, out: Path) -> None:
    """Move the finished file to its place, in one step."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary:
            shutil.copyfile(tensors, temporary)
    except OSError as error:
        raise CheckpointError(f"--out {out}: cannot be written: {error.strerror or error}") from error
