"""What the students of a search say of the accuracy of others: a Gaussian process over log sizes, rates and choices."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Kernel, Matern, WhiteKernel

from minilm_core.results.records import Status, TrialRecord
from spaces.space import Choices, LogRange, StudentChoice, StudentSpace

MIN_OBSERVATIONS = 3
"""Fewer complete students say nothing of others."""
MIN_FOR_STOPPED = 5
"""The complete students from which the accuracy of a stopped one can be told by its loss."""
TUKEY_FENCE = 1.5
"""Accuracies that lie further below the lower quartile, in interquartile ranges, count as if they lay there: those of
collapsed runs say that, and not how far, they are bad."""
IRRELEVANT = 1e5
"""A length scale over which a feature changes nothing."""
JITTER = 1e-8
"""Added to each variance, so that equal students leave the covariance matrix regular."""
LEAST_SPREAD = 1e-3
"""Of accuracies: a tenth of a point."""


class Features:
    """Students as points: the logarithms of sizes and rates, scaled to [0, 1] over the space, 0 or 1 for a choice, and
    last the squares of the rates around the middle of their ranges.
    """

    def __init__(self, space: StudentSpace) -> None:
        self._space = space
        self._scales = {name: ends for name, choices in space.parameters.items() if (ends := _log_ends(choices))}
        self._rates = [index for index, name in enumerate(self._scales) if name.endswith("_rate")]

    @property
    def num_squares(self) -> int:
        """How many of the last columns are squares of others."""
        return len(self._rates)

    def of(self, choices: Sequence[StudentChoice]) -> Float[np.ndarray, "students features"]:
        """Returns one row a student."""
        params = [self._space.encode(choice) for choice in choices]
        columns = [
            [(math.log(each[name]) - low) / (high - low) for each in params]
            for name, (low, high) in self._scales.items()
        ]
        squares = [[(2 * rate - 1) ** 2 for rate in columns[index]] for index in self._rates]
        if "initialisation" in self._space.parameters:
            columns += [
                [float(choice.initialisation is name) for choice in choices] for name in self._space.initialisations
            ]
        columns += squares
        return np.array(columns, dtype=float).T.reshape(len(choices), len(columns))


def _log_ends(choices: Choices) -> tuple[float, float] | None:
    """Returns the logarithms of the ends of a parameter's numbers; None where it has one value, or texts."""
    if isinstance(choices, LogRange):
        low, high = choices.low, choices.high
    else:
        numbers = [value for value in choices if not isinstance(value, str)]
        if not numbers:
            return None
        low, high = min(numbers), max(numbers)
    return None if low == high else (math.log(low), math.log(high))


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """Students with their accuracies, and the variance of those that are only told from a loss."""

    choices: tuple[StudentChoice, ...]
    accuracies: Float[np.ndarray, " students"]
    variances: Float[np.ndarray, " students"]

    @classmethod
    def of_records(cls, records: Sequence[TrialRecord]) -> Self:
        """Returns the complete students of a search, and the stopped ones as far as complete ones tell of them."""
        complete = [record for record in records if record.is_complete_student]
        measured = fenced(np.array([record.objectives["accuracy"] for record in complete]))
        told = list(_of_stopped(complete, measured, [r for r in records if r.status is Status.STOPPED]))
        stopped = [record for record, _, _ in told]
        return cls(
            choices=tuple(StudentChoice.from_record(record) for record in (*complete, *stopped)),
            accuracies=np.concatenate([measured, [mean for _, mean, _ in told]]),
            variances=np.concatenate([np.zeros(len(measured)), [variance for _, _, variance in told]]),
        )


def fenced(accuracies: Float[np.ndarray, " students"]) -> Float[np.ndarray, " students"]:
    """Returns accuracies of which none is far below the others."""
    if not len(accuracies):
        return accuracies
    lower, upper = np.quantile(accuracies, [0.25, 0.75])
    return np.asarray(np.maximum(accuracies, lower - TUKEY_FENCE * max(upper - lower, LEAST_SPREAD)))


def _of_stopped(
    complete: Sequence[TrialRecord], accuracies: Float[np.ndarray, " students"], stopped: Sequence[TrialRecord]
) -> Iterator[tuple[TrialRecord, float, float]]:
    """Yields stopped students, their expected accuracy and its variance, by their loss at the last rung and their size.

    Both follow from the complete students by least squares.
    """
    for record in stopped:
        if not record.rungs:
            continue
        last = record.rungs[-1]
        rows, targets = [], []
        for other, accuracy in zip(complete, accuracies, strict=True):
            losses: Mapping[int, float] = {rung.step: rung.held_out_loss for rung in other.rungs}
            if last.step in losses:
                rows.append(_regressors(losses[last.step], other))
                targets.append(accuracy)
        if len(rows) < MIN_FOR_STOPPED:
            continue
        weights, *_ = np.linalg.lstsq(np.array(rows), np.array(targets), rcond=None)
        residuals = np.array(targets) - np.array(rows) @ weights
        variance = float((residuals**2).sum() / max(1, len(rows) - len(weights)))
        mean = float(np.array(_regressors(last.held_out_loss, record)) @ weights)
        # What is extrapolated beyond all that were seen is not believed.
        yield record, float(np.clip(mean, min(targets), max(targets))), variance


def _regressors(loss: float, record: TrialRecord) -> list[float]:
    return [1.0, math.log(max(loss, 1e-12)), math.log(max(1, record.num_layer_parameters or 1))]


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyModel:
    """The accuracy of students as a Gaussian process that complete and stopped ones have taught.

    A trend is linear in the logarithms of sizes and quadratic in those of rates, and what is left is smooth. Without
    the trend, the corners of a space are the least certain students for long, and are tried one after another.

    Source: Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, chapters 2 and 5.
    """

    features: Features
    points: Float[np.ndarray, "students features"]
    """The students that it has seen."""
    targets: Float[np.ndarray, " students"]
    """Their accuracies, less their mean and in standard deviations."""
    variances: Float[np.ndarray, " students"]
    """Those of the targets that are only told from a loss."""
    mean: float
    spread: float
    process: GaussianProcessRegressor

    @classmethod
    def fit(cls, features: Features, observed: Observed, seed: int) -> Self:
        """Returns the model of observed students, whose length scales and noise are the most likely ones."""
        mean, spread = float(observed.accuracies.mean()), max(float(observed.accuracies.std()), LEAST_SPREAD)
        points = features.of(observed.choices)
        targets, variances = (observed.accuracies - mean) / spread, observed.variances / spread**2
        kernel = _kernel(points.shape[1], features.num_squares)
        process = GaussianProcessRegressor(kernel, alpha=variances + JITTER, n_restarts_optimizer=1, random_state=seed)
        with warnings.catch_warnings(category=ConvergenceWarning, action="ignore"):
            process.fit(points, targets)
        return cls(
            features=features,
            points=points,
            targets=targets,
            variances=variances,
            mean=mean,
            spread=spread,
            process=process,
        )

    def predict(
        self, choices: Sequence[StudentChoice]
    ) -> tuple[Float[np.ndarray, " students"], Float[np.ndarray, " students"]]:
        """Returns the expected accuracies and their standard deviations, without the noise of one training."""
        means, deviations = self.process.predict(self.features.of(choices), return_std=True)
        noise = self.process.kernel_.k2.noise_level  # the last term of the kernel
        return means * self.spread + self.mean, np.sqrt(np.maximum(deviations**2 - noise, 0.0)) * self.spread

    def believing(self, running: Sequence[StudentChoice]) -> Self:
        """Returns the model as it would be if students that still run ended as they are expected to.

        Source: Ginsbourger, Le Riche & Carraro, Kriging Is Well-Suited to Parallelize Optimization, 2010.
        """
        if not running:
            return self
        expected = (self.predict(running)[0] - self.mean) / self.spread
        points = np.vstack([self.points, self.features.of(running)])
        targets = np.concatenate([self.targets, expected])
        variances = np.concatenate([self.variances, np.zeros(len(running))])
        process = GaussianProcessRegressor(self.process.kernel_, alpha=variances + JITTER, optimizer=None)
        process.fit(points, targets)
        return replace(self, points=points, targets=targets, variances=variances, process=process)


def _kernel(num_features: int, num_squares: int) -> Kernel:
    """Returns the covariance before it is fitted: a trend in all features, the smooth rest, and noise."""
    lengths = np.ones(num_features)
    bounds = np.tile([0.5, 10.0], (num_features, 1))
    if num_squares:
        # The rest depends on the features alone and not on their squares: along those it is constant.
        lengths[-num_squares:], bounds[-num_squares:] = IRRELEVANT, (IRRELEVANT, 1.01 * IRRELEVANT)
    trend = ConstantKernel(1.0, (0.2, 20.0)) * DotProduct(sigma_0=1.0, sigma_0_bounds="fixed")
    rest = ConstantKernel(0.3, (0.01, 2.0)) * Matern(length_scale=lengths, length_scale_bounds=bounds, nu=2.5)
    return trend + rest + WhiteKernel(0.1, (1e-3, 1.0))
