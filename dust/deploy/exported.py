"""Exported models: what a file says of itself, the libraries that run it, and the predictor around it."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dust.config.parser import load_saved_config
from dust.deploy.predictor import Identity, Predictor, build_with_files, loop_around
from dust.deploy.readers import build_reader
from dust.engine.test import build_views, without_sweep
from dust.tasks import build_task
from dust.tasks.task import DataInfo, Outputs
from dust.utils.errors import CheckpointError, ConfigError, DataError
from dust.utils.files import sha256_of_file
from dust.utils.package import import_extra
from dust.utils.registry import import_extensions
from dust.utils.structured import parse_json, read_json

#: Format -> how its files end.
FORMATS = {"onnx": ".onnx", "torch_export": ".pt2", "openvino": ".xml"}
#: The entry of a file's metadata that holds the manifest, as json.
ENTRY = "dust"
#: The manifest's own version; another one is refused.
VERSION = 1
LOGITS, PROBABILITIES = "logits", "probabilities"


@dataclass(frozen=True)
class Input:
    """One input of an exported model: its dtype as NumPy names it, and its shape behind the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Manifest:
    """What an exported file says of itself.

    Attributes:
        model: the architecture.
        task: the question that it answers.
        classes: in the order of the logits.
        inputs, outputs: in their order.
        preprocess: frames, sampling, views and sizes of the source's way to the inputs, as
            :attr:`dust.deploy.predictor.Predictor.preprocess`; ``mean``, ``std`` and ``reverse_channels`` are applied
            inside the model.
        checkpoint_sha256: of the weights, as in ``results/test.json``.
        licences: of published weights that these began from or are, zoo name -> licence; empty: trained from none.
        config, fitted, files: of the training, from which dust makes the same preprocessing again.
        agreement: how the file and the model that it was made of agree (:mod:`dust.deploy.export_check`).
        runtimes: rows of the table of sizes and times.
        int8: what the quantisation was calibrated on; empty for float32.
        temperature: that logits are divided by before they become probabilities.
        notes: what an exported model of this kind cannot do.
    """

    model: str
    task: str
    classes: Sequence[str]
    inputs: Sequence[Input]
    outputs: Sequence[str]
    preprocess: Mapping[str, Any]
    checkpoint_sha256: str
    licences: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    fitted: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    agreement: Mapping[str, Any] = field(default_factory=dict)
    runtimes: Sequence[Mapping[str, Any]] = ()
    int8: Mapping[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    notes: str = ""
    dust: str = ""
    version: int = VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, source: str) -> "Manifest":
        """Read what :meth:`to_json` wrote. ConfigError where it is something else, or of another version."""
        try:
            found = parse_json(text, source)
        except DataError as error:
            raise ConfigError(f"{source}: its manifest is no json: export the run again") from error
        version = found.get("version") if isinstance(found, dict) else None
        if version != VERSION:
            raise ConfigError(f"{source}: its manifest has version {version}, this dust reads {VERSION}: export again")
        known = {one.name for one in fields(cls)}
        try:
            kept = {name: value for name, value in found.items() if name in known}
            kept["inputs"] = [Input(one["name"], one["dtype"], tuple(one["shape"])) for one in found["inputs"]]
            return cls(**kept)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"{source}: its manifest lacks something: {error}; export the run again") from error


def is_exported(source: str | os.PathLike[str]) -> bool:
    """Tell whether a name is that of an exported file."""
    return Path(source).suffix.lower() in FORMATS.values()


# --- the libraries that run one ---------------------------------------------------------------------------------


class Runtime(Protocol):
    """A loaded file. ``manifest`` is its text, "" where the file has none."""

    manifest: str

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map inputs by name -> outputs by name, all (B, ...)."""
        ...


class OnnxRuntime:
    """A file in ONNX Runtime, with as many threads as torch has."""

    def __init__(self, path: str | os.PathLike[str], device: str = "cpu") -> None:
        library = import_extra("onnxruntime", "export", f"{path}")
        state: Any = import_extra("onnxruntime.capi.onnxruntime_pybind11_state", "export", f"{path}")
        self.errors = tuple(one for one in vars(state).values() if isinstance(one, type) and issubclass(one, Exception))
        present = library.get_available_providers()
        cuda = "CUDAExecutionProvider" in present
        if device != "auto" and device.startswith("cuda") and not cuda:
            raise ConfigError(
                f"device {device}: this ONNX Runtime has no CUDA (it has {', '.join(present)}); write cpu"
            )
        wanted: list[Any] = ["CPUExecutionProvider"]
        if cuda and device != "cpu":
            wanted.insert(0, ("CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0)}))
        options = library.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session = library.InferenceSession(os.fspath(path), options, providers=wanted)
        except self.errors as error:
            raise CheckpointError(f"{path}: ONNX Runtime cannot read it: {error}") from error
        self.manifest = self.session.get_modelmeta().custom_metadata_map.get(ENTRY, "")
        self.taken = [one.name for one in self.session.get_inputs()]
        self.given = [one.name for one in self.session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = {name: np.ascontiguousarray(inputs[name].numpy(force=True)) for name in self.taken}
        return {
            name: torch.from_numpy(one) for name, one in zip(self.given, self.session.run(None, arrays), strict=True)
        }


class OpenVino:
    """A file in OpenVINO, in float32 whatever the machine would choose, with as many threads as torch has."""

    def __init__(self, path: str | os.PathLike[str], device: str = "cpu") -> None:
        library = import_extra("openvino", "export", f"{path}")
        if device not in ("auto", "cpu"):
            raise ConfigError(f"device {device}: OpenVINO runs on the CPU here; write cpu")
        core = library.Core()
        try:
            model = core.read_model(os.fspath(path))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise CheckpointError(f"{path}: OpenVINO cannot read it: {reason}") from error
        self.manifest = str(model.get_rt_info([ENTRY]).value) if model.has_rt_info([ENTRY]) else ""
        exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        self.compiled = core.compile_model(model, "CPU", exact)
        self.taken = [one.get_any_name() for one in self.compiled.inputs]
        self.given = [one.get_any_name() for one in self.compiled.outputs]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = {name: np.ascontiguousarray(inputs[name].numpy(force=True)) for name in self.taken}
        found = self.compiled(arrays)
        return {name: torch.from_numpy(np.array(found[name])) for name in self.given}


def open_runtime(path: str | os.PathLike[str], device: str = "cpu") -> Runtime:
    """Open an exported file with the library of its format.

    Raises:
        ConfigError: the library is not installed, or has no such device; torch's own format, which runs code when it is
            read. CheckpointError: the file cannot be read.
    """
    suffix = Path(path).suffix.lower()
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ConfigError(f"device {device!r}: write auto, cpu, cuda or cuda:1")
    if not Path(path).is_file():
        raise ConfigError(f"{path}: there is no such file")
    if suffix == FORMATS["torch_export"]:
        raise ConfigError(
            f"{path}: torch reads a .pt2 with pickle, which runs whatever code the file holds, so dust does not open "
            "one. Export the run as onnx or openvino, or open a file that you trust with torch.export.load"
        )
    return OnnxRuntime(path, device) if suffix == FORMATS["onnx"] else OpenVino(path, device)


# --- the predictor around one -----------------------------------------------------------------------------------


class ExportedModel:
    """An exported file as the evaluation loop calls it: uint8 clips and other inputs in, logits out.

    Where several questions are answered (verb, noun), a dict of logits.
    """

    def __init__(self, runtime: Runtime, inputs: Sequence[Input], source: str) -> None:
        self.runtime, self.inputs, self.source = runtime, tuple(inputs), source

    def __call__(self, **inputs: Tensor) -> Outputs:
        wrong = [
            f"{one.name} of {tuple(inputs[one.name].shape[1:])}, not {one.shape}"
            for one in self.inputs
            if tuple(inputs[one.name].shape[1:]) != one.shape
        ]
        if wrong:
            raise DataError(
                f"{self.source}: the model was exported for inputs of one shape, and got {'; '.join(wrong)}"
            )
        return logits_of_outputs(self.runtime(inputs))


def logits_of_outputs(outputs: Mapping[str, Tensor]) -> Outputs:
    """Return what an exported model gave, as the task knows it: logits, or a dict of those of several questions."""
    if LOGITS in outputs:
        return outputs[LOGITS]
    end = f"_{LOGITS}"
    return {name.removesuffix(end): value for name, value in outputs.items() if name.endswith(end)}


def read_manifest(path: str | os.PathLike[str], runtime: Runtime) -> Manifest:
    """Return the manifest of an open file, compared with the json beside it, where there is one.

    Raises:
        ConfigError: it has none. CheckpointError: the json beside it is of another file.
    """
    if not runtime.manifest:
        raise ConfigError(
            f"{path}: holds no manifest, so nobody knows its classes and its preprocessing; name what dust export wrote"
        )
    beside = manifest_path(path)
    if beside.is_file():
        for name, sha256 in _hashes_in(beside).items():
            file = Path(path).with_name(name)
            if file.is_file() and sha256_of_file(file) != sha256:
                raise CheckpointError(f"{file}: does not belong to {beside.name}: export the run again")
    return Manifest.from_json(runtime.manifest, os.fspath(path))


def _hashes_in(path: Path) -> Mapping[str, str]:
    """Return the hashes of files that the json beside them holds."""
    try:
        return dict(read_json(path)["file_sha256"])
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: is not the json that dust export wrote: export the run again") from error


def manifest_path(path: str | os.PathLike[str]) -> Path:
    """Return where the json beside an exported file lies."""
    return Path(path).with_name(f"{Path(path).name}.json")


def build_exported(
    source: str, *, device: str = "auto", overrides: Mapping[str, Any] | None = None, threshold: float = 0.0
) -> Predictor:
    """Return the predictor around an exported file: the readers and the task of the run, none of its model's code.

    Raises:
        ConfigError, CheckpointError: see :func:`open_runtime` and :func:`read_manifest`; or the model answers windows
            of recordings, which only the run puts together.
    """
    runtime = open_runtime(source, device)
    manifest = read_manifest(source, runtime)
    # a file is data: the code that its run imported is not imported for it
    settings = without_sweep({"IMPORTS": [], **(overrides or {})})
    cfg = build_views(load_saved_config(manifest.config, settings, source))[-1]
    import_extensions(cfg.IMPORTS)
    with build_with_files(cfg, manifest.files) as cfg:
        task = build_task(cfg, DataInfo(manifest.classes, fitted=manifest.fitted))
        if not task.evaluation("test").logits:
            raise ConfigError(f"{source}: {manifest.model} {manifest.notes}")
        reader = build_reader(cfg, manifest.classes, manifest.fitted, manifest.files, torch.device("cpu"))
    loop = loop_around(ExportedModel(runtime, manifest.inputs, source), micro_batch=cfg.TEST.BATCH_SIZE)
    identity = Identity(source, manifest.model, manifest.checkpoint_sha256, manifest.fitted)
    predictor = Predictor(loop, task, reader, manifest.classes, identity=identity, threshold=threshold)
    if manifest.temperature != 1:
        predictor.calibrate(manifest.temperature)
    return predictor
