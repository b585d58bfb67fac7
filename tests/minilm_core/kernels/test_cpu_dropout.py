"""Tests of the dropout that hashes places: independent between indices and seed to seed, with no mask kept."""

import itertools

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from minilm_core.kernels.cpu_dropout import drop, fits

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NUMBER = 1 << 16
NUM_DRAWS = 1 << 20
FIVE_DEVIATIONS = 5 / NUMBER**0.5
"""The standard deviation of the correlation of this many independent pairs."""


def signs(seed: int, dtype: torch.dtype) -> Tensor:
    """Returns 1 for kept elements and -1 for dropped ones, with a probability of one half."""
    torch.manual_seed(seed)
    kept, _ = drop(torch.ones(NUMBER, dtype=dtype), 0.5)
    return kept.double() * 2 - 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_of_neighbouring_seeds_are_uncorrelated_at_any_distance(dtype: torch.dtype) -> None:
    spectra = [torch.fft.rfft(signs(seed, dtype)) for seed in range(6)]
    for one, other in itertools.combinations(spectra, 2):
        correlations = torch.fft.irfft(one * other.conj()) / NUMBER
        # The largest of many correlations has a wider distribution than one alone.
        assert correlations.abs().max() < 1.5 * FIVE_DEVIATIONS


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mask_is_uncorrelated_with_itself_at_any_distance(dtype: torch.dtype) -> None:
    spectrum = torch.fft.rfft(signs(0, dtype))
    correlations = torch.fft.irfft(spectrum.abs().square()) / NUMBER
    assert correlations[1:].abs().max() < 1.5 * FIVE_DEVIATIONS


def correlations(dtype: torch.dtype, probability: float, num_seeds: int) -> Tensor:
    """Returns, for each distance, the RMS over seeds of a mask's autocorrelation, in standard deviations."""
    total = torch.zeros(NUM_DRAWS // 2)
    num_choices = 2 ** (8 * dtype.itemsize)
    share = round((1 - probability) * num_choices) / num_choices
    for seed in range(num_seeds):
        torch.manual_seed(seed)
        kept, _ = drop(torch.ones(NUM_DRAWS, dtype=dtype), probability)
        mask = ((kept != 0).float() - share) / (share * (1 - share)) ** 0.5
        spectrum = torch.fft.rfft(mask)
        # Distance 0 is left out, and so is half the length, where each pair occurs twice.
        total += torch.fft.irfft(spectrum.abs().square())[1 : NUM_DRAWS // 2 + 1].square() / NUM_DRAWS
    return (total / num_seeds).sqrt()[:-1]


def bound(num_seeds: int, num_distances: int) -> float:
    """Returns the bound that the largest of this many RMS of normal numbers exceeds once in ten thousand times."""
    return float((chi2.isf(1e-4 / num_distances, num_seeds) / num_seeds) ** 0.5)


# fp16 takes the same path as bf16.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_distance_is_correlated_over_many_seeds(dtype: torch.dtype) -> None:
    found = correlations(dtype, 0.1, 40)
    # These include the next row and the next head of attention over 128 tokens, and all multiples of 4096.
    assert found.max() < bound(40, len(found)), f"largest at distance {int(found.argmax()) + 1}"


@pytest.mark.long
@pytest.mark.parametrize("probability", [0.01, 0.05, 0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_distance_is_correlated_with_any_probability(dtype: torch.dtype, probability: float) -> None:
    found = correlations(dtype, probability, 160)
    # With few dropped pairs the tails are heavier than normal ones.
    assert found.max() < bound(160, len(found)) * (1.1 if probability < 0.05 else 1), int(found.argmax()) + 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_part_of_a_large_tensor_loses_the_same_fraction(dtype: torch.dtype) -> None:
    kept, _ = drop(torch.ones(64 * NUMBER, dtype=dtype), 0.1)
    shares = (kept.view(64, NUMBER) != 0).double().mean(dim=1)
    assert (shares - 0.9).abs().max() < 0.3 * FIVE_DEVIATIONS + 2**-16


@pytest.mark.parametrize("dtype", DTYPES)
def test_views_that_are_not_contiguous_or_not_aligned_give_what_copies_give(dtype: torch.dtype) -> None:
    whole = torch.randn(41, generator=torch.Generator().manual_seed(0)).to(dtype)
    for view in (whole[1:34], whole[:36].view(4, 9).t(), whole[::3]):
        results = []
        for values in (view, view.clone(memory_format=torch.contiguous_format)):
            torch.manual_seed(0)
            results.append(drop(values, 0.5)[0])
        assert torch.equal(*results)
        assert results[0].shape == view.shape


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype) -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            results.append(drop(torch.ones(3, 33_333, dtype=dtype), 0.3)[0])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_no_tensor_is_saved_for_the_gradient() -> None:
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda tensor: tensor):
        drop(torch.ones(100, requires_grad=True), 0.5)
    assert not saved


@pytest.mark.parametrize(
    ("values", "probability"),
    [(torch.ones(3).double(), 0.1), (torch.ones(0), 0.1), (torch.ones(3), 0.0), (torch.ones(3), 1.0)],
)
def test_unsupported_tensors_and_probabilities_do_not_fit(values: Tensor, probability: float) -> None:
    assert not fits(values, probability)
    assert fits(torch.ones(3), 0.1)
