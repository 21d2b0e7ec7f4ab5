"""The lists that curating a data folder leaves: copies, suspected labels, outliers, what to label next, corrections."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dust.analysis.copies import Sketch, same_recordings, say_how_long, sketch
from dust.analysis.curate import (
    LabelIssue,
    agreement,
    families,
    label_issues,
    label_next,
    least_sure,
    near_duplicates,
    normalised,
    out_of_fold,
    outliers,
)
from dust.analysis.predictions import CONFIG, PREDICTIONS, Results, read_results
from dust.config import flatten, read_written
from dust.datasets.manifest.manifest import Clip, available_splits, read_manifest
from dust.decode.reader import open_clip
from dust.decode.segment import part_of
from dust.utils.errors import DataError, VideoError
from dust.utils.features import FeatureStore
from dust.utils.files import write_csv
from dust.utils.logging import progress

#: Outliers and clips to label next that are listed.
LISTED = 50
#: Tasks that ask for no label, so that features know nothing of them.
WITHOUT_LABELS = ("Contrastive", "Masked")


@dataclass(frozen=True)
class Curated:
    """Clips of all splits that have features, and what was found. Indices count the rows of ``ids``.

    Attributes:
        copies: families of near duplicates.
        issues: labels that look wrong.
        odd: (index, distance) of the clips that stand most alone.
        unsure: clips that have a label and are hardest to tell.
        unlabelled: clips without one, in the order in which labels would help most.
        seen: clips whose pictures told copies; of the others features did.
        learnt: whether the features are of a model that had learnt these labels, and may vouch for wrong ones.
        agreement: the share (0..1) of labels that the answers that judged them agree with; None: there are no labels.
    """

    ids: list[str]
    splits: list[str]
    labels: np.ndarray
    class_names: list[str]
    copies: list[list[int]]
    issues: list[LabelIssue]
    odd: list[tuple[int, float]]
    unsure: list[int]
    unlabelled: list[int]
    seen: int = 0
    learnt: bool = False
    agreement: float | None = None


def curate(
    features: str | Path,
    data: str,
    *,
    threshold: float = 0.95,
    folds: int = 5,
    seed: int = 0,
    pictures: bool = True,
    soft_labels: bool = False,
) -> Curated:
    """Look at a data folder through stored features.

    Args:
        features: a folder of features, or a run that extracted some (FEATURES.ENABLE True).
        data: the folder of the lists.
        threshold: cosine, around the mean of all features, from which two clips are copies of each other where no
            pictures tell.
        folds: parts of the out-of-fold classifier.
        soft_labels: read what several people said (DATA.SOFT_LABELS); the largest share is a clip's label.
        pictures: tell copies by the clips' own pictures, where these can be read (:mod:`dust.analysis.copies`).

    Raises:
        DataError: there are no features of any clip of the lists.
    """
    if _has_answers_only(Path(features)):
        return curate_answers(read_results(features))
    rows, clips, splits, labels, names = _read(Path(features), data, soft_labels)
    ids, groups = [clip.id for clip in clips], [clip.group or clip.path for clip in clips]
    unit = normalised(rows)
    sketches = _sketches(clips) if pictures else [None] * len(clips)
    there = [number for number, one in enumerate(sketches) if one is not None]
    shown = same_recordings([one for one in sketches if one is not None])
    pairs = [(there[i], there[j], score) for i, j, score in shown]
    if len(there) < len(clips):
        pairs += [one for one in near_duplicates(unit, threshold=threshold) if not {*one[:2]} <= {*there}]
    copies = families(pairs, len(ids))
    known = labels >= 0
    issues: list[LabelIssue] = []
    unsure: list[int] = []
    agreed = None
    if known.any():
        where = np.flatnonzero(known)
        together = _together(copies, groups)  # a copy in another fold would vouch for a wrong label
        probabilities = out_of_fold(
            rows[where].reshape(len(where), -1), labels[where], [together[i] for i in where], folds=folds, seed=seed
        )
        agreed = agreement(probabilities, labels[where])
        for issue in label_issues(probabilities, labels[where]):
            issues.append(LabelIssue(int(where[issue.index]), issue.given, issue.suggested, issue.own, issue.other))
        unsure = [int(where[index]) for index in least_sure(probabilities)[:LISTED]]
    distance = outliers(unit)
    odd = [(int(index), float(distance[index])) for index in np.argsort(-distance, kind="stable")[:LISTED]]
    unlabelled = label_next(unit, known, count=LISTED) if not known.all() else []
    learnt = has_learnt_labels(Path(features), data)
    return Curated(ids, splits, labels, names, copies, issues, odd, unsure, unlabelled, len(there), learnt, agreed)


def has_learnt_labels(run: Path, data: str) -> bool:
    """Tell whether a run that extracted features was trained on the labels of a data folder."""
    config = flatten(read_written(run / CONFIG))
    trained = next((run / "checkpoints").glob("*"), None) is not None
    root = str(config.get("DATA.PATH_TO_DATA_DIR", ""))
    here = bool(root) and Path(root).resolve() == Path(data).resolve()
    return trained and here and config.get("TASK") not in WITHOUT_LABELS


def _sketches(clips: Sequence[Clip]) -> list[Sketch | None]:
    """Return what each clip looks like; None where it cannot be read."""

    def draw(clip: Clip) -> Sketch | None:
        try:
            with part_of(open_clip(clip.path), clip.segment) as reader:
                return sketch(reader)
        except VideoError:
            return None

    at_once = min(4, os.cpu_count() or 1)
    say_how_long("clips are drawn", clips, draw, at_once=at_once)
    with ThreadPoolExecutor(at_once) as pool:
        return list(progress(pool.map(draw, clips), desc="drawing", total=len(clips), unit="clip"))


def _has_answers_only(run: Path) -> bool:
    return (run / "results" / PREDICTIONS).is_file() and not (run / "features").is_dir()


def curate_answers(results: Results) -> Curated:
    """Judge labels by the answers of models that have not seen the clips: of a test, or of folds that were pooled.

    Copies, outliers and what to label next need features, so these lists are empty.

    Raises:
        DataError: several labels a clip, several questions, or not the probabilities of all classes.
    """
    if len(results.answers) != 1 or results.answers[0].multi_label or not results.answers[0].graded:
        raise DataError(
            f"{results.name}: labels are judged by the probabilities of all classes (prob_<class>) of clips with one "
            "label each; extract features instead (FEATURES.ENABLE True)"
        )
    answers = results.answers[0]
    if answers.no_probabilities:
        raise DataError(f"{results.name}: {answers.no_probabilities}; write those that the model gives (softmax)")
    known = answers.labelled
    if not len(known):
        raise DataError(f"{results.name}: no clip has a label, so none can look wrong")
    scores, labels = answers.scores[known], answers.labels[known]
    if len(np.unique(labels)) < 2:
        raise DataError(f"{results.name}: labels of one class only: none of them can look wrong")
    issues = [
        LabelIssue(int(known[one.index]), one.given, one.suggested, one.own, one.other)
        for one in label_issues(scores, labels)
    ]
    unsure = [int(known[index]) for index in least_sure(scores)[:LISTED]]
    split = "train" if "pooled_from" in results.report else str(results.report.get("split", "test"))
    splits = [split] * len(results.ids)
    return Curated(
        results.ids, splits, answers.labels, answers.classes, [], issues, [], unsure, [],
        agreement=agreement(scores, labels),
    )  # fmt: skip


def _together(copies: list[list[int]], groups: list[str]) -> list[str]:
    """Return the group of each clip, where families of copies share theirs."""
    parent = {group: group for group in groups}

    def root(group: str) -> str:
        while parent[group] != group:
            group = parent[group]
        return group

    for family in copies:
        first = root(groups[family[0]])
        for index in family[1:]:
            parent[root(groups[index])] = first
    return [root(group) for group in groups]


def _read(
    features: Path, data: str, soft_labels: bool
) -> tuple[np.ndarray, list[Clip], list[str], np.ndarray, list[str]]:
    """Return (features, clips, their splits, their labels, class names)."""
    folder = features / "features" if (features / "features").is_dir() else features
    parts, found, splits, labels = [], list[Clip](), [], []
    names: list[str] = []
    for split in available_splits(data):
        if not (folder / f"{split}.json").is_file() and not (folder / f"{split}.npz").is_file():
            continue
        store = FeatureStore.open(folder, split)
        manifest = read_manifest(
            root=data, split=split, class_names=names or None, check_files=False, soft_labels=soft_labels
        )
        names = manifest.class_names
        there = set(store.ids) - set(store.missing)
        clips = [clip for clip in manifest.clips if clip.id in there]
        if not clips:
            continue
        parts.append(np.stack([_one(np.asarray(store.get(clip.id))) for clip in clips]))
        found += clips
        splits += [split] * len(clips)
        labels += [-1 if clip.label is None else int(clip.label) for clip in clips]  # type: ignore[arg-type]
    if not parts:
        raise DataError(
            f"{folder}: no features of any clip of {data}. Extract some: dust --cfg RUN.yaml TRAIN.ENABLE False "
            "TEST.ENABLE False FEATURES.ENABLE True"
        )
    return np.concatenate(parts), found, splits, np.array(labels), names


def _one(feature: np.ndarray) -> np.ndarray:
    """Return one vector: of windows or maps their mean."""
    return np.asarray(feature, np.float32).reshape(-1, feature.shape[-1]).mean(axis=0)


def write_curated(found: Curated, folder: Path) -> list[Path]:
    """Write ``duplicates.csv``, ``label_issues.csv``, ``outliers.csv``, ``label_next.csv`` and ``corrections.csv``.

    The corrections give suspected labels the class that they look like, and drop training clips of which another split
    has a copy, and all but the first of copies inside a split. They are a proposal: read them before DATA.CORRECTIONS
    names them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = {-1: ""} | dict(enumerate(found.class_names))
    label = [name[int(number)] for number in found.labels]
    copies = [
        [number, found.ids[i], found.splits[i], label[i]] for number, family in enumerate(found.copies) for i in family
    ]
    write_csv(folder / "duplicates.csv", ["family", "id", "split", "label"], copies)
    issues = [
        [found.ids[one.index], found.splits[one.index], name[one.given], name[one.suggested], f"{one.own:.4f}",
         f"{one.other:.4f}"] for one in found.issues
    ]  # fmt: skip
    write_csv(folder / "label_issues.csv", ["id", "split", "label", "suggested", "p_label", "p_suggested"], issues)
    odd = [[found.ids[i], found.splits[i], label[i], f"{distance:.4f}"] for i, distance in found.odd]
    write_csv(folder / "outliers.csv", ["id", "split", "label", "distance"], odd)
    chosen = [[found.ids[i], found.splits[i], "no label yet"] for i in found.unlabelled]
    chosen += [[found.ids[i], found.splits[i], f"hard to tell: {label[i]}"] for i in found.unsure]
    write_csv(folder / "label_next.csv", ["id", "split", "why"], chosen)
    write_csv(folder / "corrections.csv", ["id", "action", "label", "split", "why"], _corrections(found, name))
    names = ("duplicates", "label_issues", "outliers", "label_next", "corrections")
    return [folder / f"{one}.csv" for one in names]


def _corrections(found: Curated, name: dict[int, str]) -> list[list[str]]:
    dropped: dict[int, str] = {}
    for family in found.copies:
        held = [i for i in family if found.splits[i] != "train"]
        for i in family:
            if found.splits[i] == "train" and held:
                dropped[i] = f"a copy of {found.ids[held[0]]} in {found.splits[held[0]]}"
            elif any(j < i and found.splits[j] == found.splits[i] for j in family):
                dropped[i] = f"a copy of {found.ids[family[0]]}"
    rows = [[found.ids[i], "drop", "", found.splits[i], why] for i, why in sorted(dropped.items())]
    for one in found.issues:
        if one.index not in dropped:
            why = f"looks like it: {one.other:.2f} against {one.own:.2f}"
            rows.append([found.ids[one.index], "relabel", name[one.suggested], found.splits[one.index], why])
    return rows
