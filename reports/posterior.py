"""The probability that a student is on the frontier, from a posterior of all students' true accuracies.

The bootstrap keeps the luck of the students that look best: their resamples scatter around their lucky values. Here the
true accuracies follow a trend over size with a scatter that the data determines, and each student's measured accuracy
is shrunk towards that trend as far as its error requires. Errors are correlated, because all students answer the same
examples; their covariance is that of the joint resamples.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

NUM_DRAWS = 4000
MIN_STUDENTS = 5
"""With fewer students no trend can be told from their errors, and measured accuracies are not shrunk."""
_SCATTERS = 40
"""The number of values of the scatter that are weighed against one another."""

Accuracies = Float[np.ndarray, " students"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The measured accuracies of students, with what is known of their errors and sizes."""

    values: Accuracies
    resampled: Float[np.ndarray, "students resamples"]
    """The accuracies over joint resamples of the examples."""
    log_sizes: Accuracies


def draw_accuracies(measured: Measured, seed: int = 0) -> Float[np.ndarray, "draws students"]:
    """Draws true accuracies of all students from their posterior.

    The trend is linear in the logarithm of size with flat priors, and the scatter around it has a flat prior over its
    standard deviation. Draws are unbounded: an accuracy near 1 may be drawn above it, which changes no order.
    """
    random = np.random.default_rng(seed)
    num_students = len(measured.values)
    errors = _Errors.of(np.atleast_2d(np.cov(measured.resampled)) + 1e-12 * np.eye(num_students))
    if num_students < MIN_STUDENTS:
        return np.asarray(measured.values + errors.draw(errors.variances, NUM_DRAWS, random))
    centred = measured.log_sizes - measured.log_sizes.mean()
    # Students of one size have a mean and no slope.
    design = np.column_stack([np.ones(num_students), centred]) if np.ptp(centred) > 0 else np.ones((num_students, 1))
    candidates = [
        _given_scatter(measured.values, errors, design, scatter) for scatter in _scatters(measured.values, errors)
    ]
    log_weights = np.array([candidate.log_evidence for candidate in candidates])
    weights = np.exp(log_weights - log_weights.max())
    counts = random.multinomial(NUM_DRAWS, weights / weights.sum())
    return np.concatenate(
        [candidate.draw(errors, count, random) for candidate, count in zip(candidates, counts, strict=True)]
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Errors:
    """The covariance of the errors by its eigenvectors, which are those of the posterior for every scatter, too."""

    variances: Accuracies
    """Its eigenvalues."""
    directions: Float[np.ndarray, "students students"]
    """Its eigenvectors, one a column."""
    largest: float
    """The largest standard deviation of a student's error."""

    @classmethod
    def of(cls, covariance: Float[np.ndarray, "students students"]) -> "_Errors":
        variances, directions = np.linalg.eigh(covariance)
        largest = float(np.sqrt(np.diag(covariance)).max())
        return cls(variances=np.maximum(variances, 0.0), directions=directions, largest=largest)

    def draw(
        self, variances: Accuracies, count: int, random: np.random.Generator
    ) -> Float[np.ndarray, "draws students"]:
        """Draws from a normal distribution around 0 that has these variances in the directions of the errors."""
        drawn = random.standard_normal((count, len(variances))) * np.sqrt(variances)
        return np.asarray(drawn @ self.directions.T)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Posterior:
    """The posterior of the true accuracies for one value of the scatter."""

    mean: Accuracies
    variances: Accuracies
    """Of the accuracies given the trend, in the directions of the errors."""
    spread: Float[np.ndarray, "students coefficients"]
    """What the uncertain trend adds, of independent normal coefficients."""
    log_evidence: float

    def draw(self, errors: _Errors, count: int, random: np.random.Generator) -> Float[np.ndarray, "draws students"]:
        """Draws true accuracies."""
        of_trend = random.standard_normal((count, self.spread.shape[1])) @ self.spread.T
        return np.asarray(self.mean + of_trend + errors.draw(self.variances, count, random))


def _scatters(values: Accuracies, errors: _Errors) -> Accuracies:
    """Returns the standard deviations around the trend that are weighed, from almost none to all that is seen."""
    largest = max(3 * float(values.std()), errors.largest, 1e-6)
    return np.linspace(largest / _SCATTERS / 10, largest, _SCATTERS)


def _given_scatter(
    values: Accuracies, errors: _Errors, design: Float[np.ndarray, "students coefficients"], scatter: float
) -> _Posterior:
    # Source: Gelman et al., Bayesian Data Analysis (3rd edition), sections 5.4 and 15.2. In the directions of the
    # errors every covariance is diagonal.
    variance = scatter**2
    marginal = errors.variances + variance
    turned, turned_design = errors.directions.T @ values, errors.directions.T @ design
    information = (turned_design.T / marginal) @ turned_design
    of_coefficients = np.linalg.inv(information)
    coefficients = of_coefficients @ (turned_design.T @ (turned / marginal))
    residuals = turned - turned_design @ coefficients
    gain = variance / marginal
    # What the uncertain trend adds.
    spread = errors.directions @ (turned_design * (1 - gain)[:, np.newaxis])
    log_evidence = -(np.log(marginal).sum() + np.linalg.slogdet(information)[1] + (residuals**2 / marginal).sum()) / 2
    return _Posterior(
        mean=design @ coefficients + errors.directions @ (gain * residuals),
        variances=gain * errors.variances,
        spread=spread @ np.linalg.cholesky(of_coefficients),
        log_evidence=float(log_evidence),
    )
