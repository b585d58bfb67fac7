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
    errors = np.atleast_2d(np.cov(measured.resampled)) + 1e-12 * np.eye(num_students)
    if num_students < MIN_STUDENTS:
        return random.multivariate_normal(measured.values, errors, size=NUM_DRAWS, method="eigh")
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
        [
            random.multivariate_normal(candidate.mean, candidate.covariance, size=count, method="eigh")
            for candidate, count in zip(candidates, counts, strict=True)
        ]
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Posterior:
    """The posterior of the true accuracies for one value of the scatter."""

    mean: Accuracies
    covariance: Float[np.ndarray, "students students"]
    log_evidence: float


def _scatters(values: Accuracies, errors: Float[np.ndarray, "students students"]) -> Accuracies:
    """Returns the standard deviations around the trend that are weighed, from almost none to all that is seen."""
    largest = max(3 * float(values.std()), float(np.sqrt(np.diag(errors)).max()), 1e-6)
    return np.linspace(largest / _SCATTERS / 10, largest, _SCATTERS)


def _given_scatter(
    values: Accuracies,
    errors: Float[np.ndarray, "students students"],
    design: Float[np.ndarray, "students coefficients"],
    scatter: float,
) -> _Posterior:
    # Source: Gelman et al., Bayesian Data Analysis (3rd edition), sections 5.4 and 15.2.
    variance = scatter**2
    marginal = np.linalg.inv(errors + variance * np.eye(len(values)))
    information = design.T @ marginal @ design
    of_coefficients = np.linalg.inv(information)
    coefficients = of_coefficients @ (design.T @ marginal @ values)
    residuals = values - design @ coefficients
    gain = variance * marginal
    # What the uncertain trend adds.
    spread = design - gain @ design
    covariance = variance * np.eye(len(values)) - variance * gain + spread @ of_coefficients @ spread.T
    log_evidence = (
        np.linalg.slogdet(marginal)[1] - np.linalg.slogdet(information)[1] - residuals @ marginal @ residuals
    ) / 2
    return _Posterior(
        mean=design @ coefficients + gain @ residuals,
        covariance=(covariance + covariance.T) / 2,
        log_evidence=float(log_evidence),
    )
