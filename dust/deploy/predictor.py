"""The one way from a source to a prediction: read as a test reads, run as a test runs, answered as a test answers."""

import contextlib
import itertools
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dust.config import CfgNode, with_values
from dust.config.expand import grouping_of
from dust.datasets.sample import BadClip
from dust.datasets.video.tstl_groups import GROUPING
from dust.deploy.prediction import Prediction, make_prediction
from dust.deploy.readers import build_reader
from dust.deploy.reading import Reader, Reading
from dust.deploy.sources import find_sources, is_single, local
from dust.deploy.streams import Stream, open_stream
from dust.engine.backends import Backends
from dust.engine.classes import build_with_classes
from dust.engine.extract import layer_output
from dust.engine.inference import Inference
from dust.engine.setup import build_autocast, build_device_transform
from dust.engine.test import build_tested_model
from dust.models import MODEL_REGISTRY
from dust.models.protocol import ReadsClassNames
from dust.tasks import Evaluation, Task, build_task
from dust.tasks.task import DataInfo, Outputs
from dust.utils.errors import ConfigError, DataError
from dust.utils.files import AddressError
from dust.utils.registry import build, import_extensions

#: What makes outputs of inputs, all (B, ...): a model, or an exported one.
Backend = Callable[..., Outputs]


@dataclass(frozen=True)
class Identity:
    """What a predictor was made of.

    Attributes:
        source: as it was given to :func:`dust.load`.
        model: the architecture's name.
        checkpoint_sha256: of the weights, as in ``results/test.json``.
        fitted: what the training learnt of its data.
    """

    source: str = ""
    model: str = ""
    checkpoint_sha256: str = ""
    fitted: Mapping[str, Any] = field(default_factory=dict)


class Predictor:
    """A trained model with everything that turns a source into what it sees, and its outputs into words.

        model = dust.load("runs/kitchen")
        model("clip.mp4").label
        for prediction in model.predict(["a.mp4", "b.mp4"]): ...

    Args:
        loop: the evaluation loop around the model, or around any :data:`Backend` (see :func:`loop_around`).
        task: says how outputs become answers.
        reader: turns sources into what the model sees.
        classes: names in the order of the logits.
        identity: what it was made of.
        threshold: below this probability the answer is "none of these".

    ``read`` may be called by any number of threads; the model is run by one at a time.
    """

    def __init__(
        self,
        loop: Inference,
        task: Task,
        reader: Reader,
        classes: Sequence[str],
        *,
        identity: Identity | None = None,
        threshold: float = 0.0,
    ) -> None:
        self.loop, self.task, self.reader = loop, task, reader
        self.classes = list(classes)
        self.identity = identity or Identity()
        self.threshold = threshold
        self.temperature = 1.0

    def __repr__(self) -> str:
        model, count = self.identity.model or type(self.loop.model).__name__, len(self.classes)
        names = ", ".join(self.classes[:4]) + (", ..." if count > 4 else "")
        return f"Predictor({self.identity.source or model}: {model}, {count} classes ({names}), on {self.loop.device})"

    @property
    def device(self) -> torch.device:
        return self.loop.device

    @property
    def batch_size(self) -> int:
        """Views that run through the model at once."""
        return self.loop.micro_batch

    @property
    def preprocess(self) -> dict[str, Any]:
        """How a source becomes what the model sees: frames, sampling, views, sizes, mean and spread; as json can."""
        return dict(self.reader.description)

    # ------------------------------------------------------------------------------------------------ predictions

    def __call__(self, source: Any) -> Any:
        """Predict one source, or several.

        Args:
            source: a video file, a folder of pictures, a video file's bytes or frames as a uint8 array (T, H, W, 3)
                RGB: one :class:`Prediction`. A list of these, a pattern such as ``"clips/*.mp4"``, a folder of videos
                or a csv list: a list of predictions. What cannot be read has its ``error`` set.
        """
        try:
            source = local(source)
        except AddressError:
            return next(self.predict([source]))  # which says it
        if isinstance(source, str | os.PathLike) and not is_single(source, self.reader):
            return list(self.predict(find_sources([os.fspath(source)], self.reader)))
        if isinstance(source, list | tuple):
            return list(self.predict(source))
        return next(self.predict([source]))

    def read(self, source: Any) -> Reading:
        """Read one source; a bad file has its ``error`` set. Any number of threads may read at once."""
        try:
            return self.reader.read(local(source))
        except AddressError as error:
            return Reading(str(source), str(source), error=str(error))

    def predict_batch(self, readings: Iterable[Reading]) -> list[Prediction]:
        """Predict what :meth:`read` returned, in its order, with as many views at once as ``batch_size`` says."""
        return list(self._answers(readings, self.evaluation()))

    def predict(
        self, sources: Iterable[Any], *, evaluation: Evaluation | None = None, workers: int | None = None
    ) -> Iterator[Prediction]:
        """Yield the prediction of each source in order, while the next ones are being read.

        Args:
            evaluation: is told of every sample, to write what a test writes; see :meth:`evaluation`.
            workers: threads that read ahead; None: as many as there are CPUs, at most 4; 0: none.
        """
        yield from self._answers(self._read_ahead(sources, workers), evaluation or self.evaluation(), evaluation)

    def features(self, source: Any, *, layer: str = "pooled") -> np.ndarray:
        """Return what ``layer`` makes of a source, the mean over its views, float32.

        Args:
            layer: ``pooled`` (what the classifier sees), ``map``, or the name of a submodule, as FEATURES.LAYER.

        Raises:
            DataError: the source cannot be read. ConfigError: the model has no such layer.
        """
        (reading,) = self.reader.complete([self.read(source)])
        if reading.error:
            raise DataError(f"{reading.path}: {reading.error}")
        loop = self.loop.with_forward(layer_output(self.loop.model, layer), micro_batch=self.batch_size)
        (record,) = loop(reading.items)
        return record["outputs"].mean(dim=0).numpy()

    def stream(self, source: Any, **options: Any) -> Stream:
        """Predict a video while it is read: windows of the training's length, one after the other.

            for prediction in model.stream("match.mp4", stride=0.5):
                print(prediction.start, prediction.end, prediction.label)

        Args:
            source: a file, frames as an array (T, H, W, 3), ``camera:0``, ``rtsp://...``, ``http://...``; the tracks of
                a sample for a model of point tracks.
            options: ``window`` and ``stride`` in seconds, and those of :class:`dust.deploy.streams.Stream`.
        """
        return open_stream(self, local(source), **options)

    def evaluation(self) -> Evaluation:
        """Return an empty evaluation of this model's test, without labels: told of every sample, it writes
        ``predictions.csv``."""
        evaluation = self.task.evaluation("test")
        evaluation.threshold, evaluation.temperature = self.threshold, self.temperature
        return evaluation

    def calibrate(self, temperature: float) -> None:
        """Divide logits by ``temperature`` before they become probabilities. ConfigError where the task knows none."""
        if not self.task.evaluation("test").calibrates:
            raise ConfigError(f"{self!r}: such a model has no temperature, so it cannot be calibrated")
        self.temperature = temperature

    # ------------------------------------------------------------------------------------------------- what they do

    def _read_ahead(self, sources: Iterable[Any], workers: int | None) -> Iterator[Reading]:
        """Yield the readings of the sources in order; as many as there are threads are read ahead."""
        workers = min(4, os.cpu_count() or 1) if workers is None else workers
        if workers < 1:
            yield from map(self.read, sources)
            return
        waiting: deque[Future[Reading]] = deque()
        remaining = iter(sources)
        with ThreadPoolExecutor(workers, thread_name_prefix="dust-read") as pool:
            try:
                for source in itertools.islice(remaining, workers + 1):
                    waiting.append(pool.submit(self.read, source))
                while waiting:
                    done = waiting.popleft()
                    yield done.result()
                    for source in itertools.islice(remaining, 1):
                        waiting.append(pool.submit(self.read, source))
            finally:
                for future in waiting:
                    future.cancel()

    def _answers(
        self, readings: Iterable[Reading], evaluation: Evaluation, told: Evaluation | None = None
    ) -> Iterator[Prediction]:
        """Yield the prediction of each reading in order; ``told`` keeps the records of those that were answered."""
        waiting: deque[Reading] = deque()

        def items() -> Iterator[dict[str, Any]]:
            for reading in self.reader.complete(readings):
                waiting.append(reading)
                for item in () if reading.error else reading.items:
                    if isinstance(item, BadClip):
                        reading.error = reading.error or item.reason
                    else:
                        yield {**item, "reading": reading}

        def note(bad: BadClip) -> None:
            for reading in waiting:
                if reading.id == bad.id:
                    reading.error = reading.error or bad.reason

        for record in evaluation.infer(replace(self.loop, on_bad=note), items()):
            while waiting[0] is not record["reading"]:
                yield _failed(waiting.popleft())
            kept = evaluation.keep(record)
            if told is not None:
                told.update(record)
            yield make_prediction(evaluation, record, kept, waiting.popleft())
        while waiting:
            yield _failed(waiting.popleft())


def _failed(reading: Reading) -> Prediction:
    return Prediction(reading.id, reading.path, error=reading.error or "could not be read whole")


class _Called(nn.Module):
    """Anything that is called with inputs by name, as a module."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, **inputs: Tensor) -> Outputs:
        return self.backend(**inputs)


def loop_around(
    backend: Backend,
    *,
    micro_batch: int,
    transform: Callable[..., dict[str, Any]] | None = None,
    device: torch.device | None = None,
) -> Inference:
    """Return the evaluation loop around anything that makes outputs of inputs, such as an exported model.

    Args:
        backend: ``backend(**inputs)`` -> logits (B, K), or a dict of outputs; inputs are torch tensors (B, ...).
        transform: what happens to a batch first, as :class:`DeviceTransform`; None: nothing, the backend takes uint8.
    """
    made: Any = transform or (lambda batch, *, training: batch)
    model = backend if isinstance(backend, nn.Module) else _Called(backend)
    forward: Any = lambda module, inputs: module(**inputs)  # noqa: E731
    return Inference(model, forward, made, device or torch.device("cpu"), micro_batch=micro_batch)


def build_predictor(
    cfg: CfgNode,
    *,
    device: torch.device,
    class_names: Sequence[str] | None = None,
    files: Mapping[str, str] | None = None,
    source: str = "",
    threshold: float = 0.0,
    procedure: str = "",
) -> Predictor:
    """Return the predictor of the test that cfg describes.

    Args:
        class_names: where the weights do not say; None: theirs, else "0", "1", ...
        files: what the checkpoints carry of the data folder.
        source: what was asked for, for messages.
        procedure: of recordings, what they show; "" for the first.

    Raises:
        CheckpointError: there are no weights, or they do not fit. ConfigError: such a system answers no new clips.
    """
    import_extensions(cfg.IMPORTS)
    cfg, class_names = build_named(cfg, class_names, source)
    if cfg.MODEL.NUM_CLASSES < 0:  # as many as the weights were trained for
        cfg = build_with_classes(with_values(cfg, {"TRAIN.ENABLE": False, "TEST.ENABLE": True}))
    tested = build_tested_model(cfg)
    if class_names and not isinstance(tested.model, ReadsClassNames):
        check_learnt(class_names, tested.class_names, cfg.MODEL.NUM_CLASSES, source)
    names = class_names or tested.class_names or build_class_names(cfg)
    fitted = tested.fitted or {}
    task = build_task(cfg, DataInfo(names, fitted=fitted)).to(device)
    build(Backends, cfg).use(device)  # the model was built on the CPU
    model = tested.model.to(device).eval()
    if isinstance(model, ReadsClassNames):
        model.set_class_names(names)
    loop = Inference(
        model,
        task.forward,
        build_device_transform(cfg),
        device,
        micro_batch=cfg.TEST.BATCH_SIZE,
        autocast=build_autocast(cfg, device),
    )
    identity = Identity(source, cfg.MODEL.MODEL_NAME, tested.sha256, fitted)
    reader = build_reader(cfg, names, fitted, files or {}, device, procedure)
    return Predictor(loop, task, reader, names, identity=identity, threshold=threshold)


def build_named(
    cfg: CfgNode, class_names: Sequence[str] | None, source: str = ""
) -> tuple[CfgNode, Sequence[str] | None]:
    """Return the configuration with as many classes as are named, here or in CLIP.CLASSES, and these names, where the
    model reads names.

    Raises:
        ConfigError: it reads names, and there are none, or one stands there twice.
    """
    cls: Any = MODEL_REGISTRY.get(cfg.MODEL.MODEL_NAME)
    if not issubclass(cls, ReadsClassNames):
        return cfg, class_names
    names = list(class_names or cfg.CLIP.CLASSES)
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        wrong = f"these are named twice: {', '.join(twice)}" if twice else "none are named"
        raise ConfigError(
            f"{source}: a {cfg.MODEL.MODEL_NAME} answers with the classes that it is given, and {wrong}: "
            'dust predict ... --classes "cutting bread" stirring (or a file, one name per line); '
            "dust.load(..., class_names=[...]), or CLIP.CLASSES [cutting bread, stirring]"
        )
    return with_values(cfg, {"MODEL.NUM_CLASSES": len(names)}), names


def check_learnt(named: Sequence[str], learnt: Sequence[str] | None, count: int, source: str) -> None:
    """Raise ConfigError unless the classes that are named can be the ``count`` that a model has learnt; None where its
    weights do not say their names."""
    if list(named) == list(learnt) if learnt else len(named) == count:
        return
    known = f" ({', '.join(learnt[:4])}{', ...' if len(learnt) > 4 else ''})" if learnt else ""
    raise ConfigError(
        f"{source}: {len(named)} classes are named ({', '.join(named[:4])}{', ...' if len(named) > 4 else ''}), and "
        f"these weights answer with the {count} that they have learnt{known}: they have no text transformer that reads "
        "others. Leave --classes out, or name weights that have one, such as zoo://clip_vit_b16"
    )


def build_class_names(cfg: CfgNode) -> list[str]:
    """Return the classes of a model whose weights do not say: those of its grouping, else "0", "1", ..."""
    if cfg.MODEL.MODEL_NAME == "TSTL":
        grouping = grouping_of(cfg)
        if grouping.class_names:
            return list(grouping.class_names)
    return [str(number) for number in range(cfg.MODEL.NUM_CLASSES)]


@contextlib.contextmanager
def build_with_files(cfg: CfgNode, files: Mapping[str, str]) -> Iterator[CfgNode]:
    """Yield the configuration with ``files``, name -> text, in a folder of their own in place of the data's; as it is
    where there are none."""
    if not files:
        yield cfg
        return
    with tempfile.TemporaryDirectory(prefix="dust-") as folder:
        for name, text in files.items():
            Path(folder, Path(name).name).write_text(text, encoding="utf-8")
        values: dict[str, Any] = {"DATA.PATH_TO_DATA_DIR": folder}
        if GROUPING in files:
            values["TSTL.GROUPING"] = GROUPING
        yield with_values(cfg, values)
