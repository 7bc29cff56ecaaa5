"""What a classifier's answers are worth."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_app.workloads.interface import Metrics


def scores_of(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Metrics:
    """Give the accuracy, and where there are two classes what a clinician asks for, label 1 being the finding.

    logits: (examples, classes), at least one example; the highest one is the answer.
    sensitivity: share of the findings that are found; specificity: share of the others that are left alone; auc: how
    often a finding ranks above another example, a tie counting half. Each is left out where its examples do not occur.
    """
    found = logits.argmax(1)
    metrics = {"accuracy": float((found == labels).mean())}
    if logits.shape[1] == 2:
        finding = labels == 1
        if finding.any():
            metrics["sensitivity"] = float((found[finding] == 1).mean())
        if not finding.all():
            metrics["specificity"] = float((found[~finding] == 0).mean())
        if finding.any() and not finding.all():
            margin = logits[:, 1] - logits[:, 0]
            metrics["auc"] = _auc(margin[finding], margin[~finding])
    return metrics


def _auc(findings: NDArray[Any], others: NDArray[Any]) -> float:
    """Area under the ROC curve as the Mann-Whitney statistic; n log n, ties in half."""
    ranked = np.sort(others)
    below = np.searchsorted(ranked, findings, "left") + np.searchsorted(ranked, findings, "right")
    return float(below.mean() / (2 * len(others)))
