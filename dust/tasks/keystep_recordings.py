"""Whole recordings of procedures: windows over their frames' embeddings, the steps decoded of them, and the figures."""

import contextlib
import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dust.models.keystep_windows import recording_windows, window_logits
from dust.procedure.metrics import Step, StepScore, delay_curve, match_steps, score_recording, summarize
from dust.procedure.mistakes import MistakeRule
from dust.procedure.step_decoder import WINDOWS, StepDecoder
from dust.procedure.windows import output_names, window_padding, window_span
from dust.tasks.keystep_mistakes import (
    alarm_facts,
    alarms_of,
    drawings_of,
    mistake_metrics,
    mistake_report,
    score_of,
    write_mistakes,
)
from dust.tasks.task import Answer, Evaluation, InferenceLoop
from dust.utils.errors import DataError
from dust.utils.files import file_stems, write_csv
from dust.utils.statistics import Interval, mean_intervals
from dust.utils.text import NONE

logger = logging.getLogger(__name__)

CURVE = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0)  # seconds of the delay curve
MISTAKE_COLUMNS = ("mistakes_found", "mistakes_missed", "false_alarms")
FAST = {"compress_level": 1}  # a picture is drawn in three quarters of the time, and is a little larger
SWEEP = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)  # of the threshold


class RecordingsEvaluation(Evaluation):
    """POS, F1 and delay of the steps of whole recordings.

    Items are pieces of recordings, as :class:`ProcedureRecordings` gives them, whose outputs are the embeddings (T, D)
    of their frames. :meth:`infer` makes whole recordings of them, and what is kept of one holds its decoded steps.

    A recording without labels has steps and timelines all the same, without a verdict.

    Args:
        components: K names.
        decoder: how steps are made.
        frames, skip, phases: see :func:`dust.models.keystep_windows.recording_windows`.
        batch: windows that run through the temporal encoder at once.
        metric_mode: see :func:`dust.procedure.metrics.score_recording`.
        mistakes: when an alarm is raised.
        timelines: pictures that are drawn at most; 0: of all recordings.
    """

    #: What comes out of the loop are probabilities of windows.
    logits = False

    def __init__(
        self,
        components: Sequence[str],
        decoder: StepDecoder,
        *,
        frames: int = 65,
        skip: int = 3,
        phases: str = "first",
        batch: int = 64,
        metric_mode: str = "paper",
        mistakes: MistakeRule | None = None,
        timelines: int = 100,
    ) -> None:
        super().__init__()
        self.mistakes = mistakes or MistakeRule(window=decoder.window, phases=decoder.phases)
        self.components, self.decoder = list(components), decoder
        self.frames, self.skip, self.phases, self.batch = frames, skip, phases, batch
        self.metric_mode, self.timelines = metric_mode, timelines

    def infer(self, loop: InferenceLoop, items: Iterable[Any]) -> Iterator[dict[str, Any]]:
        """Encode each frame once, put the pieces together, and run the windows of their embeddings as the views of one
        sample: a record is a whole recording, ``outputs`` the probabilities (W, K) of its windows.

        The temporal encoder runs in float32 and in batches of one recording, as in a stream, so that a recording's
        figures do not depend on those that were tested with it.
        """
        recordings = self._join(loop(items))
        if self.decoder.mode not in WINDOWS:
            nothing = {"outputs": torch.empty(0, len(self.components)), "last": np.empty(0, int)}
            return ({**one, **nothing} for one in recordings)
        windows = loop.with_forward(
            _probabilities, micro_batch=self.batch, across_samples=False, autocast=contextlib.nullcontext
        )
        return windows(self._with_windows(one) for one in recordings)

    def _join(self, pieces: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield one recording of the pieces with its id; one of which a piece is missing could not be read, and is left
        out."""
        for _, found in itertools.groupby(pieces, key=lambda record: record["id"]):
            parts = list(found)
            outputs = torch.cat([part["outputs"] for part in parts])
            if len(outputs) == parts[0]["facts"]["num_frames"]:
                yield {**parts[0], "outputs": outputs}

    def _with_windows(self, one: dict[str, Any]) -> dict[str, Any]:
        """Return an evaluation item: a recording whose views are its windows."""
        last, windows = recording_windows(one.pop("outputs"), frames=self.frames, skip=self.skip, phases=self.phases)
        return {**one, "inputs": {"embeddings": windows}, "last": last}

    def keep(self, record: dict[str, Any]) -> dict[str, Any]:
        facts, last = record["facts"], record["last"]
        padding = window_padding(facts["num_frames"], self.frames, self.skip) if len(last) else 0
        one = {"id": record["id"], "path": record["path"], "labelled": True, **facts}
        one |= {"last": last, "probabilities": record["outputs"].numpy(), "padding": padding}
        one |= {"span": window_span(self.frames, self.skip), "predicted": self._decode(one, self.decoder)}
        return {**one, "alarms": alarms_of(one, self.mistakes)}

    def questions(self) -> Sequence[Sequence[str]] | None:
        return ()

    def answer(self, kept: dict[str, Any]) -> Answer:
        """Return the steps in their order; the probability of a component is the largest that any window gives a
        change."""
        steps = [
            {
                "frame": int(frame),
                "time": frame / kept["fps"],
                "step": int(step),
                "component": self.components[step // 3],
                "description": self._describe(step),
            }
            for frame, step in kept["predicted"]
        ]
        most = (
            kept["probabilities"].max(axis=0)
            if len(kept["probabilities"])
            else np.zeros(kept["probabilities"].shape[1])
        )
        label = ", ".join(step["description"] for step in steps) or NONE
        facts = {"steps": steps, "alarms": alarm_facts(kept["alarms"], kept["fps"], self._describe)}
        return Answer(label, dict(zip(self._outputs(kept), map(float, most), strict=True)), facts=facts)

    def _outputs(self, one: Mapping[str, Any]) -> list[str]:
        """Return the names of a recording's probabilities: of components, and of mistakes where the model says them."""
        wrong = one["probabilities"].shape[1] > len(self.components)
        return output_names(self.components, "mistakes" if wrong else "no_error")

    def _describe(self, step: int) -> str:
        return f"{('Install', 'Install wrongly', 'Remove')[step % 3]} {self.components[step // 3]}"

    def _decode(self, one: dict[str, Any], decoder: StepDecoder) -> list[Step]:
        changes = one["probabilities"][:, : len(self.components)]
        return decoder.decode(one["procedure"], one["states"], one["detections"], one["last"], changes)

    # ------------------------------------------------------------------------------------------------------- figures

    def _score(self, one: dict[str, Any], predicted: Sequence[Step]) -> StepScore:
        window = self.decoder.window
        return score_recording(one["steps"], predicted, fps=one["fps"], mode=self.metric_mode, window=window)

    def _summary(self, decoder: StepDecoder | None = None) -> dict[str, Any]:
        """Return the figures of the steps as decoded, or of those of another decoder."""
        steps = {
            one["id"]: one["predicted"] if decoder is None else self._decode(one, decoder) for one in self._records
        }
        scores = {one["id"]: self._score(one, steps[one["id"]]) for one in self._records}
        return summarize(scores, {one["id"]: one["errors"] for one in self._records})

    def metrics(self) -> dict[str, float]:
        """Return ``pos`` and ``f1`` (0..1), means over recordings; ``tau_s``, seconds, if any step was recognised; sums
        ``tp``, ``fp``, ``fn``; and those of :func:`mistake_metrics`."""
        if not self._records:
            return {}
        found = self._summary()
        steps = {name: found[name] for name in ("pos", "f1", "tau_s", "tp", "fp", "fn") if found[name] is not None}
        return {**steps, **mistake_metrics(self._records)}

    def intervals(self, groups: Mapping[str, str]) -> dict[str, Interval]:
        """Return intervals of ``pos`` and ``f1`` (0..1), and of ``tau_s`` over the recordings that have one."""
        scores = [self._score(one, one["predicted"]) for one in self._records]
        names = self.group_names(self._records, groups)
        found = {}
        for name, upper in (("pos", 1.0), ("f1", 1.0), ("tau_s", None)):
            pairs = [(value, group) for score, group in zip(scores, names, strict=True)
                     if (value := getattr(score, name)) is not None]  # fmt: skip
            if pairs:
                values = np.array([value for value, _ in pairs], float)
                found[name] = mean_intervals(values, [group for _, group in pairs], upper=upper)
        return found

    def report(self) -> dict[str, Any]:
        """Return the summary, also of recordings with and without errors; every recording; the share of steps that were
        recognised within so many seconds; and what other thresholds would have given."""
        scores = {one["id"]: self._score(one, one["predicted"]) for one in self._records}
        each = {}
        for one in self._records:
            score = scores[one["id"]]
            each[one["id"]] = {
                **{name: getattr(score, name) for name in ("pos", "f1", "tau_s", "tp", "fp", "fn")},
                **_counts_of_mistakes(one),
                "errors": one["errors"],
                "frames": one["num_frames"],
                "padded_frames": one["padding"],
            }
        curve = dict(zip(map(str, CURVE), delay_curve(list(scores.values()), CURVE), strict=True))
        return {
            **self._summary(),
            "metric_mode": self.metric_mode,
            "decoder": self.decoder.mode,
            "recordings": each,
            "delay_curve": curve,
            "threshold_sweep": self._sweep(),
            "mistakes": mistake_report(self._records, self.mistakes),
            "graphs": drawings_of(self._records, self._describe),
        }

    def _sweep(self) -> list[dict[str, Any]]:
        """Return POS, F1 and delay for thresholds around the one in use; of the evidence, or of a single confidence."""
        key, value = ("conf", self.decoder.conf) if self._single else ("cum_conf", self.decoder.threshold)
        rows = []
        for factor in SWEEP:
            changes: dict[str, Any] = {key: value * factor}
            if self._single and changes["conf"] >= 1:
                continue
            found = self._summary(replace(self.decoder, **changes))
            rows.append({**changes, **{name: found[name] for name in ("pos", "f1", "tau_s")}})
        return rows

    @property
    def _single(self) -> bool:
        """Whether one confidence decides, rather than evidence that is gathered."""
        return self.decoder.mode in ("b1", "temporal_naive")

    # --------------------------------------------------------------------------------------------------------- files

    def write(self, folder: Path) -> list[Path]:
        """Write ``steps/<recording>.csv``: every recognised and every missed step; ``windows/<recording>.csv``: the
        probabilities; ``timelines/<recording>.png``, of the recordings with the lowest F1; ``recordings.csv``."""
        if not self._records:
            raise DataError("no recording was evaluated, so there is nothing to write")
        for name in ("steps", "windows", "timelines"):
            (folder / name).mkdir()
        paths = [folder / "recordings.csv", folder / "mistakes.csv"]
        write_mistakes(paths[1], self._records, self._describe)
        columns = ("pos", "f1", "tau_s", "tp", "fp", "fn")
        rows, scores = [], []
        for one in self._records:
            score = self._score(one, one["predicted"])
            scores.append(score.f1 if one["labelled"] else math.inf)
            facts = (one["errors"] if one["labelled"] else "", one["num_frames"], one["padding"])
            figures = [_short(getattr(score, name)) if one["labelled"] else "" for name in columns]
            figures += [str(count) if one["labelled"] else "" for count in _counts_of_mistakes(one).values()]
            rows.append([one["id"], *figures, *facts])
        header = ["recording", *columns, *MISTAKE_COLUMNS, "errors", "frames", "padded_frames"]
        write_csv(paths[0], header, rows, line_end="\r\n")
        stems = file_stems([one["id"] for one in self._records])
        drawn = sorted(range(len(stems)), key=scores.__getitem__)[: self.timelines or None]
        if len(drawn) < len(stems):
            text = "timelines are drawn of the %d of %d recordings with the lowest F1 (KEYSTEP.TIMELINES 0: of all)"
            logger.info(text, len(drawn), len(stems))
        for place, (one, stem) in enumerate(zip(self._records, stems, strict=True)):
            paths.append(folder / "steps" / f"{stem}.csv")
            right = self._write_steps(paths[-1], one)
            if place in drawn:
                paths.append(folder / "timelines" / f"{stem}.png")
                self.figure(one, right).savefig(paths[-1], dpi=100, pil_kwargs=FAST)
            if len(one["last"]):
                paths.append(folder / "windows" / f"{stem}.csv")
                self._write_windows(paths[-1], one)
        return paths

    def _write_steps(self, path: Path, one: dict[str, Any]) -> list[bool]:
        """Return for each recognised step whether it is right."""
        gt, predicted, fps = one["steps"], one["predicted"], one["fps"]
        done_of = {
            (gt[i][0] + delay, gt[i][1]): gt[i][0] for i, delay in match_steps(gt, predicted, "paper").delays.items()
        }
        rows, right, taken = [], [], set()
        for frame, step in predicted:
            done = done_of.pop((frame, step), None)
            right.append(done is not None or not one["labelled"])
            if done is None:
                rows.append((frame, step, "wrong" if one["labelled"] else "", "", ""))
            else:
                taken.add((done, step))
                rows.append((frame, step, "right", done, f"{(frame - done) / fps:.2f}"))
        rows += [(done, step, "missed", done, "") for done, step in gt if (done, step) not in taken]
        lines = []
        for frame, step, verdict, done, delay in sorted(rows, key=lambda row: row[0]):
            lines.append([frame, f"{frame / fps:.2f}", step, self._describe(step), verdict, done, delay])
        header = ["frame", "time_s", "step", "description", "verdict", "completed_frame", "delay_s"]
        write_csv(path, header, lines, line_end="\r\n")
        return right

    def _write_windows(self, path: Path, one: dict[str, Any]) -> None:
        rows = zip(one["last"], one["probabilities"], strict=True)
        lines = ([int(last), *(f"{value:.5f}" for value in row)] for last, row in rows)
        write_csv(path, ["last_frame", *(f"prob_{name}" for name in self._outputs(one))], lines, line_end="\r\n")

    def figure(self, one: dict[str, Any], right: Sequence[bool]) -> Any:
        """Return the timeline of one of :meth:`records`; ``right`` says of each recognised step whether it is."""
        from dust.visualization.steps import steps_figure

        return steps_figure(
            one["steps"],
            one["predicted"],
            right,
            self.components,
            num_frames=one["num_frames"],
            fps=one["fps"],
            last=one["last"],
            probabilities=one["probabilities"][:, : len(self.components)],
            title=one["id"],
        )


def _probabilities(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """Map windows of embeddings -> (W, K) probabilities."""
    return torch.sigmoid(window_logits(model, inputs["embeddings"]).float())


def _counts_of_mistakes(one: Mapping[str, Any]) -> dict[str, int]:
    score = score_of(one)
    found = len(score.pairs)
    return dict(zip(MISTAKE_COLUMNS, (found, len(score.true) - found, len(score.alarms) - found), strict=True))


def _short(value: float | int | None) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
