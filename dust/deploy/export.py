"""``dust export``: a trained model as a file for other programs, written once it agrees with the original."""

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import dust
from dust import zoo
from dust.config import KEYS, CfgNode, dump, flatten
from dust.datasets.build import build_dataset
from dust.datasets.loader import evaluation_loader
from dust.datasets.sample import BadClip
from dust.deploy.export_check import (
    Agreement,
    Row,
    Run,
    compare,
    describe,
    in_torch,
    measure,
    measure_compiled,
    megabytes_of,
    table,
)
from dust.deploy.export_graph import (
    NOT_EXPORTED,
    WITHOUT,
    Graph,
    put_into_onnx,
    quantise,
    spec_of,
    to_onnx,
    to_openvino,
    trace,
    write_onnx,
    write_openvino,
    write_torch_export,
)
from dust.deploy.exported import FORMATS, Manifest, logits_of_outputs, manifest_path, open_runtime
from dust.deploy.loading import build_carried, find_settings
from dust.deploy.predictor import Predictor, build_predictor
from dust.deploy.sources import find_sources
from dust.engine.calibration import read_temperature
from dust.models import MODEL_REGISTRY
from dust.models.protocol import FromConfig
from dust.utils.errors import ConfigError, DataError, DustError
from dust.utils.files import sha256_of_file, sync_folder, write_text
from dust.utils.logging import progress
from dust.utils.package import import_extra
from dust.utils.stages import stage_path

#: Evaluation items from the first one on, as often as it is called.
Items = Callable[[], Iterator[Any]]
RUNTIMES = ("eager", "compiled", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Request:
    """What is wanted of an export.

    Attributes:
        output: the file.
        format: onnx | torch_export | openvino; "" as the file's name ends.
        check: clips on which the file must agree with the original, as ``dust predict`` takes them; empty: the test
            split.
        int8: quantise, calibrated on training clips; with onnx.
        calibration_clips: how many of them, spread over the training split.
        measured: of :data:`RUNTIMES`, those that are timed.
        force: a file that is there is overwritten.
        calibrated: probabilities by the temperature that the run's test has fitted.
    """

    output: Path
    format: str = ""
    check: Sequence[str] = ()
    int8: bool = False
    calibration_clips: int = 32
    measured: Sequence[str] = RUNTIMES
    force: bool = False
    calibrated: bool = False

    def checked(self) -> "Request":
        """Return the request with its format. ConfigError that names all that cannot be."""
        ends = {suffix: name for name, suffix in FORMATS.items()}
        found = self.format or ends.get(self.output.suffix.lower(), "")
        problems = []
        if found not in FORMATS:
            problems.append(f"format {found or self.output.suffix!r}: choose {', '.join(FORMATS)}")
        elif self.output.suffix.lower() != FORMATS[found]:
            problems.append(f"{self.output}: a file of format {found} ends with {FORMATS[found]}")
        if self.int8 and found != "onnx":
            problems.append("int8 is a form of format onnx")
        if self.calibration_clips < 1:
            problems.append(f"calibration_clips {self.calibration_clips}: must be at least 1")
        unknown = sorted(set(self.measured) - set(RUNTIMES))
        if unknown:
            problems.append(f"nobody measures {', '.join(unknown)}: choose {', '.join(RUNTIMES)}")
        if not self.output.parent.is_dir():
            problems.append(f"{self.output}: there is no folder {self.output.parent}")
        elif not os.access(self.output.parent, os.W_OK):
            problems.append(f"{self.output}: nothing may be written into {self.output.parent}")
        there = [str(path) for path in files_of(self.output, found) if path.exists()]
        if not self.force and there:
            verb = "exists" if len(there) == 1 else "exist"
            problems.append(f"{', '.join(there)} {verb} already: name another file, or say --force")
        if problems:
            raise ConfigError("\n  ".join(problems))
        return dataclasses.replace(self, format=found)


def files_of(output: Path, form: str) -> list[Path]:
    """Return all that an export to ``output`` may write: the file, the weights beside it, the json."""
    beside = {"onnx": [output.with_name(f"{output.name}.data")], "openvino": [output.with_suffix(".bin")]}
    return [output, *beside.get(form, []), manifest_path(output)]


def export(
    source: str,
    request: Request,
    *,
    overrides: Mapping[str, Any] | None = None,
    config: str = "",
    say: Callable[[str], None] = lambda text: None,
) -> Manifest:
    """Write a trained model as a file for other programs.

    Args:
        source, overrides, config: see :func:`dust.load`.
        say: told of each step.

    Returns:
        The manifest that was written into the file, and beside it as FILE.json.

    Raises:
        ConfigError: the request cannot be, or the model is not one that is exported (docs/EXPORT.md has the table).
        DustError: the file does not say what the original says. Nothing is written then.
    """
    request = request.checked()
    for library in () if request.format == "torch_export" else ("onnx", "onnxscript", "onnxruntime"):
        import_extra(library, "export", f"format {request.format}")
    if request.format == "openvino":
        import_extra("openvino", "export", "format openvino")
    cfg, names = find_settings(source, dtype="float32", overrides=overrides, config=config)
    name = cfg.MODEL.MODEL_NAME
    if name in NOT_EXPORTED:
        raise ConfigError(f"{source}: {name} {NOT_EXPORTED[name]}{build_parts(cfg)}")
    with build_carried(cfg) as (carried, files):
        predictor = build_predictor(carried, device=torch.device("cpu"), class_names=names, files=files, source=source)
        if request.calibrated:
            predictor.calibrate(read_temperature(cfg.OUTPUT_DIR, predictor.identity.checkpoint_sha256))
        about = {
            "model": name,
            "task": cfg.TASK,
            "licences": find_licences(flatten(cfg), cfg.OUTPUT_DIR),
            "config": dump(cfg),
            "files": dict(files),
            "notes": WITHOUT.get(name, ""),
        }
        exporter = Exporter(predictor, request, about, say)
        calibration = build_calibration(cfg, predictor, request.calibration_clips) if request.int8 else []
        items = build_items(cfg, predictor, request.check)
        try:
            return exporter(items, calibration)
        except OSError as error:
            raise DataError(f"{request.output}: cannot be written: {error.strerror or error}") from error


def build_parts(cfg: CfgNode) -> str:
    """Return the stages that a model is made of, as the end of a message; "" where it has none."""
    cls: Any = MODEL_REGISTRY.get(cfg.MODEL.MODEL_NAME)
    parts = cls.from_config(cfg).get("init_from", {}) if isinstance(cls, FromConfig) else {}
    named = sorted({str(stage_path(where, cfg.OUTPUT_DIR, key)) for key, where in parts.values() if where})
    return f": {', '.join(named)}" if named else ""


# --- the clips that it is compared on ---------------------------------------------------------------------------


def build_items(cfg: CfgNode, predictor: Predictor, check: Sequence[str]) -> Items:
    """Return evaluation items of the clips that ``check`` names, or of the test split; of a model of windows its
    windows."""
    windows = not predictor.evaluation().logits
    if check and windows:
        raise ConfigError(f"--check: {cfg.MODEL.MODEL_NAME} answers windows of recordings; leave it out")
    if check:
        sources = find_sources(list(check), predictor.reader)
        return lambda: _items_of(predictor, sources)
    name, views = (cfg.TRAIN.DATASET, "val") if windows else (cfg.TEST.DATASET, "test")
    try:
        dataset = build_dataset(name, cfg, "test", predictor.classes, views=views, fitted=predictor.identity.fitted)
    except DataError as error:
        raise DataError(
            f"{error}\n  To compare the exported model on clips of yours, name them: --check CLIPS"
        ) from error
    return lambda: iter(evaluation_loader(cfg, dataset))


def _items_of(predictor: Predictor, sources: Sequence[Any]) -> Iterator[Any]:
    for reading in predictor.reader.complete(map(predictor.read, sources)):
        if reading.error:
            yield BadClip(reading.id, reading.path, reading.error)
        else:
            yield from reading.items


def build_calibration(cfg: CfgNode, predictor: Predictor, count: int) -> list[dict[str, Tensor]]:
    """Return inputs (1, ...) of ``count`` training clips, spread over the split, as an evaluation reads them.

    Raises:
        DataError: none of them can be read.
    """
    fitted = predictor.identity.fitted
    dataset: Any = build_dataset(cfg.TRAIN.DATASET, cfg, "train", predictor.classes, views="val", fitted=fitted)
    count = min(count, len(dataset))
    items = (dataset[index * len(dataset) // count] for index in range(count))
    found = [{name: one[:1] for name, one in item["inputs"].items()} for item in items if isinstance(item, dict)]
    if not found:
        raise DataError(f"int8: none of {count} training clips could be read, and they say which range values have")
    return found


def find_licences(values: Mapping[str, Any], output_dir: str, seen: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the licences of the published weights that a configuration or one of its stages names, zoo name ->
    licence."""
    names = [str(value) for value in values.values() if str(value).startswith(zoo.SCHEME)]
    found = {name.removeprefix(zoo.SCHEME): zoo.get(name.removeprefix(zoo.SCHEME)).licence for name in names}
    for key in (key for key, facts in KEYS.items() if facts.stage and values.get(key)):
        with contextlib.suppress(ConfigError):
            file = next(iter(_configs_above(stage_path(str(values[key]), output_dir, key))), None)
            if file is not None and str(file) not in seen:
                upstream = flatten(CfgNode(yaml.safe_load(file.read_text(encoding="utf-8"))))
                found |= find_licences(upstream, str(file.parent), (*seen, str(file)))
    return found


def _configs_above(path: Path) -> Iterator[Path]:
    """Return the config.yaml of the run that a folder or a file of it lies in."""
    return (file for folder in (path, *path.parents[:2]) if (file := folder / "config.yaml").is_file())


# --- the export -------------------------------------------------------------------------------------------------


class Exporter:
    """Exports one predictor's model.

    Args:
        about: entries of the manifest that the configuration says.
        say: told of each step.
    """

    def __init__(
        self, predictor: Predictor, request: Request, about: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        self.predictor, self.request, self.about, self.say = predictor, request, dict(about), say

    def __call__(self, items: Items, calibration: Sequence[Mapping[str, Tensor]] = ()) -> Manifest:
        """Trace, write, compare with the original on ``items``, time, and move the files to their place."""
        first = _first_of(items())
        loop, name = self.predictor.loop, self.about["model"]
        temperature = self.predictor.temperature
        graph = Graph(loop.model, self.predictor.task, loop.transform, tuple(first), temperature).eval()
        self.say(f"tracing {name}")
        program = trace(graph, first, name)
        outputs = list(in_torch(graph)({key: value[:1] for key, value in first.items()}))
        with tempfile.TemporaryDirectory(prefix=".dust-export-", dir=self.request.output.parent) as folder:
            files = Files(program, outputs, Path(folder), self.request.output.stem)
            agreement, kept = self._compare(graph, files.run(self.request.format), items, self.request.format)
            if not agreement.holds:
                raise DustError(self._refusal(agreement))
            paths = files.paths(self.request.format)
            int8: dict[str, Any] = {}
            if calibration:
                self.say(f"quantising to int8 by the ranges of {len(calibration)} training clips")
                paths = files.quantise(calibration)
                reduced, _ = self._compare(graph, open_runtime(paths[0]), items, "int8")
                int8 = {"calibrated_on": f"{len(calibration)} training clips", "agreement": reduced.to_json()}
            rows = self._measure(graph, files, kept, paths if calibration else [])
            transform: Any = loop.transform
            normalised = {"mean": transform.mean, "std": transform.std, "reverse_channels": transform.reverse_channels}
            manifest = Manifest(
                classes=self.predictor.classes,
                inputs=spec_of(first),
                outputs=outputs,
                preprocess={**self.predictor.preprocess, **normalised},
                checkpoint_sha256=self.predictor.identity.checkpoint_sha256,
                fitted=dict(self.predictor.identity.fitted),
                agreement=agreement.to_json(),
                runtimes=[row.to_json() for row in rows],
                int8=int8,
                temperature=temperature,
                dust=dust.__version__,
                **self.about,
            )
            files.put(manifest.to_json(), paths)
            publish(paths, self.request.output, manifest)
        return manifest

    def _compare(self, graph: Graph, run: Run, items: Items, what: str) -> tuple[Agreement, dict[str, Tensor]]:
        self.say(f"comparing {what} with the original")
        shown = progress(items(), desc=f"{what} and the original", unit=" clips")
        return compare(in_torch(graph), run, shown, micro_batch=self.predictor.batch_size)

    def _refusal(self, agreement: Agreement) -> str:
        others = ", ".join(agreement.other_top1[:3])
        return (
            f"{self.request.output} is not written: what would stand in it does not say what the original says. "
            f"{agreement}; {agreement.excess:.3g} times what is allowed, of {agreement.where}"
            + (f"; another first answer for {others}" if others else "")
        )

    def _measure(self, graph: Graph, files: "Files", kept: Mapping[str, Tensor], int8: Sequence[Path]) -> list[Row]:
        """Return the table: what each library needs for one view."""
        eager = in_torch(graph)
        expected = logits_of_outputs(eager(kept))
        size = sum(one.numel() * one.element_size() for one in graph.state_dict().values()) / 1e6
        rows = []
        for name in (*self.request.measured, *(["int8"] if int8 else [])):
            self.say(f"timing {name}")
            if name == "eager":
                rows.append(measure(name, eager, kept, expected, megabytes=size))
            elif name == "compiled":
                rows.append(measure_compiled(graph, kept, expected))
            else:
                try:
                    paths = int8 if name == "int8" else files.paths("onnx" if name == "onnxruntime" else name)
                    rows.append(measure(name, open_runtime(paths[0]), kept, expected, megabytes=megabytes_of(*paths)))
                except DustError as error:
                    rows.append(Row(name, note=str(error).splitlines()[0]))
        return rows


def _first_of(items: Iterator[Any]) -> dict[str, Tensor]:
    """Return the inputs (V, ...) of the first clip that can be read."""
    item = next((one for one in items if not isinstance(one, BadClip)), None)
    if item is None:
        raise DataError("none of the clips to compare on could be read; name others with --check")
    return dict(item["inputs"])


class Files:
    """A traced model in every form, each written when it is asked for first.

    Args:
        outputs: names, in order.
        folder: of a temporary kind, with room for all forms.
        stem: what the files are called.
    """

    def __init__(self, program: torch.export.ExportedProgram, outputs: Sequence[str], folder: Path, stem: str) -> None:
        self.program, self.outputs, self.folder, self.stem = program, list(outputs), folder, stem
        self._written: dict[str, list[Path]] = {}
        self._openvino: Any = None

    def paths(self, form: str) -> list[Path]:
        """Return the files of a format, the one that is named first."""
        if form not in self._written:
            path = self._place(form, FORMATS[form])
            if form == "torch_export":
                write_torch_export(self.program, path, "")
            elif form == "onnx":
                write_onnx(to_onnx(self.program, self.outputs), path)
            else:
                self._openvino = to_openvino(self.paths("onnx")[0])
                write_openvino(self._openvino, path, "")
            self._written[form] = _with_others(path)
        return self._written[form]

    def run(self, form: str) -> Run:
        """Return what runs the file of a format."""
        path = self.paths(form)[0]
        if form == "torch_export":  # read with pickle, but written a moment ago
            return in_torch(torch.export.load(path).module())
        return open_runtime(path)

    def quantise(self, batches: Sequence[Mapping[str, Tensor]]) -> list[Path]:
        """Return the files of the .onnx in int8."""
        path = self._place("int8", FORMATS["onnx"])
        quantise(self.paths("onnx")[0], path, batches)
        return _with_others(path)

    def put(self, manifest: str, paths: Sequence[Path]) -> None:
        """Write the manifest into files that :meth:`paths` or :meth:`quantise` gave."""
        suffix = paths[0].suffix
        if suffix == FORMATS["torch_export"]:
            write_torch_export(self.program, paths[0], manifest)
        elif suffix == FORMATS["onnx"]:
            put_into_onnx(paths[0], manifest)
        else:
            write_openvino(self._openvino, paths[0], manifest)

    def _place(self, form: str, suffix: str) -> Path:
        (self.folder / form).mkdir(exist_ok=True)  # a form that could not be written is tried again by another
        return self.folder / form / f"{self.stem}{suffix}"


def _with_others(path: Path) -> list[Path]:
    """Return a file and those that lie beside it, in a folder of its own."""
    return [path, *sorted(one for one in path.parent.iterdir() if one != path)]


def publish(paths: Sequence[Path], output: Path, manifest: Manifest) -> None:
    """Move the files beside ``output``, the one of that name last, and write the json."""
    names = {path: output.name if path == paths[0] else path.name for path in paths}
    hashes = {name: sha256_of_file(path) for path, name in names.items()}
    sizes = {name: path.stat().st_size for path, name in names.items()}
    first, *others = paths
    for path in others:
        os.replace(path, output.with_name(path.name))
    os.replace(first, output)
    sync_folder(output.parent)
    document = {"file_sha256": hashes, "bytes": sizes, **json.loads(manifest.to_json())}
    write_text(manifest_path(output), json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def report(manifest: Manifest) -> str:
    """Return the table and the agreement, for a terminal."""
    rows = [Row(**row) for row in manifest.runtimes]
    lines = [table(rows), ""] if rows else []
    lines.append(f"float32: {describe(manifest.agreement)}")
    if manifest.int8:
        lines.append(f"int8, calibrated on {manifest.int8['calibrated_on']}: {describe(manifest.int8['agreement'])}")
    lines += [f"weights from {name}: {licence}" for name, licence in manifest.licences.items()]
    return "\n".join([*lines, *([f"{manifest.model} {manifest.notes}"] if manifest.notes else [])])
