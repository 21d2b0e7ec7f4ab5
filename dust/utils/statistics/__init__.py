"""How far a figure can be trusted: intervals, calibration, paired comparison. NumPy and SciPy, no torch."""

from dust.utils.statistics.agreement import Agreement, measure_agreement
from dust.utils.statistics.calibration import (
    Calibration,
    apply_temperature,
    coverage_risk,
    expected_calibration_error,
    fit_temperature,
    measure_calibration,
    reliability_bins,
)
from dust.utils.statistics.intervals import (
    FEW_GROUPS,
    RESAMPLES,
    Interval,
    classification_intervals,
    mean_intervals,
    multilabel_intervals,
    wilson_interval,
)
from dust.utils.statistics.paired import Difference, compare_means, compare_scores, holm, mcnemar_p

__all__ = [
    "FEW_GROUPS",
    "RESAMPLES",
    "Agreement",
    "Calibration",
    "Difference",
    "Interval",
    "apply_temperature",
    "classification_intervals",
    "compare_means",
    "compare_scores",
    "coverage_risk",
    "expected_calibration_error",
    "fit_temperature",
    "holm",
    "mcnemar_p",
    "mean_intervals",
    "measure_agreement",
    "measure_calibration",
    "multilabel_intervals",
    "reliability_bins",
    "wilson_interval",
]
