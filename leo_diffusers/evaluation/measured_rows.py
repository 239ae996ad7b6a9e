"""Rows of our own for the tables: what was measured of a model, of several, or by raters."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .paper_tables import METRICS, MeasuredRow
from .user_study import QUESTIONS


def measured_row(name: str, values: dict, deviations: dict | None = None) -> MeasuredRow:
    r"""A row of the table: the numbers that it has columns for. "motion" is the mean correlation over all motions."""
    numbers = {"lpips" if key == "perceptual" else key: value for key, value in values.items()}
    agreed = numbers.pop("motion_labels", None) or numbers.pop("motion", None)
    if agreed is not None:
        numbers["motion"] = float(np.mean([agreement["correlation"] for agreement in agreed.values()]))
    known = {key: value for key, value in numbers.items() if key in METRICS and np.isfinite(value)}
    return MeasuredRow(name, known, deviations or {})


def mean_row(rows: Sequence[MeasuredRow]) -> MeasuredRow:
    r"""The mean of several models' rows, with the deviations between those that have a number; a single row itself."""
    if len(rows) == 1:
        return rows[0]
    names = dict.fromkeys(name for row in rows for name in row.values)
    values = {name: [row.values[name] for row in rows if name in row.values] for name in names}
    means = {name: float(np.mean(numbers)) for name, numbers in values.items()}
    deviations = {name: float(np.std(numbers)) for name, numbers in values.items() if len(numbers) > 1}
    return replace(rows[0], values=means, deviations=deviations)


def preference_row(comparison: dict) -> MeasuredRow:
    r"""Of two methods, how often the first was preferred, per cent."""
    first, second = comparison["methods"]
    shares = {question: comparison[question]["shares"][first] * 100 for question in QUESTIONS}
    raters = "1 rater" if comparison["num_raters"] == 1 else f"{comparison['num_raters']} raters"
    return MeasuredRow(f"{first} / {second} ({raters})", shares)
