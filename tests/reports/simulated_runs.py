"""Runs of models whose true accuracies are known, as several seeds train them."""

import numpy as np

from reports.seeds import Repeated

NUM_RESAMPLES = 1000


def repeated(is_right: np.ndarray, random: np.random.Generator) -> Repeated:
    """The runs of a model, [seeds, examples], with joint resamples."""
    num_examples = is_right.shape[1]
    weights = random.multinomial(num_examples, np.full(num_examples, 1 / num_examples), size=NUM_RESAMPLES)
    return Repeated(values=is_right.mean(axis=1), resampled=is_right @ weights.T / num_examples)


def runs_of(mean: float, seed_deviation: float, difficulty: np.ndarray, num_seeds: int, random) -> np.ndarray:
    """Simulated runs: each seed has an accuracy of its own, and luck of its own on each example."""
    accuracies = mean + seed_deviation * random.normal(size=num_seeds)
    noise = 0.6 * random.normal(size=(num_seeds, len(difficulty)))
    # The thresholds give each seed its accuracy over all examples that there could be.
    spread = np.sqrt(1 + 0.6**2)
    thresholds = np.quantile(spread * np.random.default_rng(99).normal(size=200_000), np.clip(accuracies, 0, 1))
    return (difficulty + noise < thresholds[:, np.newaxis]).astype(float)
