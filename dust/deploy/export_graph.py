"""What is exported: a model with its normalisation before it and probabilities behind it, traced with any batch."""

import contextlib
import inspect
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dust.deploy.exported import ENTRY, LOGITS, PROBABILITIES, Input
from dust.tasks.task import Task
from dust.utils.errors import DustError
from dust.utils.package import import_extra

#: Registered models that are not exported, and why; docs/EXPORT.md shows it.
NOT_EXPORTED = {
    "TSTL": "sends each clip to the experts that its selector chooses, which is no fixed graph: export the selector "
    "and the experts singly, each from its own stage",
    "VideoMAEPretrain": "classifies nothing, it fills in what was masked: export what is fine-tuned of it",
    "KeyStepFrameEncoder": "classifies nothing, it embeds frames: export a KeyStepVideo",
}
#: What an exported model cannot do that the run can.
WITHOUT = {
    "KeyStepVideo": "is exported without the state of a stream: a window of frames in, the changes in it out. Whole "
    "recordings are read by the run itself",
    "TemporalEncoder": "is exported without the state of a stream: a window of embeddings in, the changes in it out. "
    "Whole recordings are read by the run itself",
    "PointTrackLSTM": "is exported without the state of a stream: every window begins from zeros",
}
LARGE = 1_800_000_000  # bytes of weights that no longer fit into one ONNX file, whose limit is 2 GiB


class Graph(nn.Module):
    """A trained model as it is exported: its inputs by name, clips as uint8 -> ``{"logits", "probabilities"}``, of
    several questions ``{"verb_logits", "verb_probabilities", ...}``.

    Args:
        transform: as the evaluation's loop calls it; it normalises clips.
        names: of the inputs, in their order.
        temperature: that logits are divided by before they become probabilities.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        transform: Callable[..., dict[str, Any]],
        names: tuple[str, ...],
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.model, self.task, self.transform = model, task, transform

        def forward(*places: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
            return self.outputs({**dict(zip(names, places, strict=False)), **inputs})

        # torch.export names the inputs by the signature, and has no guards for those of **inputs
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        forward.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore
        self.forward = forward

    def outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what is exported, of a batch of inputs."""
        floats = self.transform({"inputs": dict(inputs)}, training=False)["inputs"]
        said = self.task.forward(self.model, floats)
        answers = {LOGITS: said} if isinstance(said, Tensor) else said
        answers = {LOGITS: answers[LOGITS]} if LOGITS in answers else answers
        found: dict[str, Tensor] = {}
        for name, logits in answers.items():
            head = "" if name == LOGITS else f"{name}_"
            soft = logits if self.temperature == 1 else logits / self.temperature
            found |= {f"{head}{LOGITS}": logits, f"{head}{PROBABILITIES}": self.task.probabilities(soft)}
        return found


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Do without torch's fused transformer layers, which no other library knows."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def trace(graph: Graph, inputs: Mapping[str, Tensor], what: str) -> torch.export.ExportedProgram:
    """Trace a graph with a batch of any size.

    Args:
        inputs: (B, ...), of which one clip is enough.
        what: the model's name, for messages.

    Raises:
        DustError: it does something that depends on its inputs' values, or on how many clips a batch has.
    """
    pair = {
        name: torch.cat([value[:1], value[:1]]) for name, value in inputs.items()
    }  # 1 would be taken for a constant
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad(), plain_attention(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the parameters that torch's own LSTM sets
            graph(**pair)  # what a model keeps of its first call must not be of a trace
            return torch.export.export(
                graph, (), pair, dynamic_shapes={name: {0: batch} for name in pair}, strict=False
            )
    except (RuntimeError, ValueError, TypeError, AssertionError, torch._dynamo.exc.TorchDynamoException) as error:
        reason = str(error).strip().partition("\n\n")[0]
        raise DustError(
            f"{what} cannot be exported: {reason}\n  A forward pass must do the same for any values and any number of "
            "clips: x.shape[0] instead of len(x), torch.where instead of if"
        ) from error


def write_torch_export(program: torch.export.ExportedProgram, path: Path, manifest: str) -> None:
    """Write a .pt2; the manifest is its extra file ``dust``."""
    torch.export.save(program, path, extra_files={ENTRY: manifest})


def to_onnx(program: torch.export.ExportedProgram, outputs: Sequence[str]) -> Any:
    """Translate to an ``ONNXProgram`` whose outputs have these names."""
    import_extra("onnx", "export", "ONNX")
    import_extra("onnxscript", "export", "ONNX")
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [one.level for one in noisy]
    for one in noisy:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.onnx.export(program, dynamo=True, verbose=False, output_names=list(outputs))
    except torch.onnx.OnnxExporterError as error:
        raise DustError(f"torch's ONNX exporter cannot translate it: {str(error).strip().splitlines()[-1]}") from error
    finally:
        for one, level in zip(noisy, levels, strict=True):
            one.setLevel(level)
    assert found is not None
    for value in (*found.model.graph.inputs, *found.model.graph.outputs):
        value.shape = type(value.shape)(["batch", *value.shape[1:]])  # type: ignore[operator, index]
    return found


def write_onnx(program: Any, path: Path) -> None:
    """Write an .onnx; weights that are too many for one file lie beside it, in FILE.data."""
    size = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    program.save(str(path), external_data=size > LARGE)


def put_into_onnx(path: Path, manifest: str) -> None:
    """Make the manifest the metadata ``dust`` of an .onnx."""
    onnx = import_extra("onnx", "export", "ONNX")
    model = onnx.load(str(path), load_external_data=False)
    onnx.helper.set_model_props(model, {ENTRY: manifest})
    onnx.save(model, str(path))


def to_openvino(onnx: Path) -> Any:
    """Translate an .onnx to OpenVINO's model."""
    return import_extra("openvino", "export", "OpenVINO").convert_model(str(onnx))


def write_openvino(model: Any, path: Path, manifest: str) -> None:
    """Write an .xml, with a .bin beside it, in float32; the manifest is its runtime information ``dust``."""
    model.set_rt_info(manifest, [ENTRY])
    import_extra("openvino", "export", "OpenVINO").save_model(model, str(path), compress_to_fp16=False)


def quantise(source: Path, target: Path, batches: Iterable[Mapping[str, Tensor]]) -> None:
    """Quantise an .onnx to int8, statically: weights by channel, and what goes into each product with weights by the
    range that it has in ``batches``.

    Products of two activations (the attention itself) stay float32. Weights use 7 bits of the 8, as processors without
    VNNI overflow otherwise.
    """
    library = import_extra("onnxruntime.quantization", "export", "int8")
    waiting = iter(batches)

    class Calibration(library.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> dict[str, Any] | None:
            batch = next(waiting, None)
            return None if batch is None else {name: value.numpy() for name, value in batch.items()}

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises folding constants first, which makes a Video Swin larger by 70 %
    try:
        library.quantize_static(
            str(source),
            str(target),
            Calibration(),
            quant_format=library.QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],
            per_channel=True,
            reduce_range=True,
            activation_type=library.QuantType.QUInt8,
            weight_type=library.QuantType.QInt8,
            use_external_data_format=source.with_name(f"{source.name}.data").is_file(),
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        logging.disable(disabled)


def spec_of(inputs: Mapping[str, Tensor]) -> list[Input]:
    """Return what the inputs of a batch are called and look like."""
    return [Input(name, str(one.numpy().dtype), tuple(one.shape[1:])) for name, one in inputs.items()]
