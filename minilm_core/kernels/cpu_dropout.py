"""Dropout on a CPU: a hash of an element's index and a seed decides whether it is kept, so no mask is stored.

PyTorch draws 64 bits for each element one by one and stores a mask for the gradient. Here an element gets 16 bits if it
is a 16-bit number and 32 bits otherwise, and the loops compile to vector instructions in all threads: 3.1 million bf16
numbers took 0.2 ms on two AVX512 cores.
"""

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor
from torch.autograd.function import once_differentiable

from minilm_core.kernels.cpu_threads import in_threads

Words = np.ndarray
"""A one-dimensional array of 32-bit unsigned integers."""

_CHUNK = 1 << 12
"""Words with the same keys, which one thread processes at a time; the mask depends on this number."""
_HALF, _LOW, _HIGH = np.uint32(16), np.uint32(0xFFFF), np.uint32(0xFFFF0000)


def fits(values: Tensor, probability: float) -> bool:
    """Returns whether the loops support this: 16-bit or 32-bit numbers on a CPU, and a probability between 0 and 1."""
    is_supported = values.device.type == "cpu" and values.element_size() in (2, 4) and values.numel() > 0
    return is_supported and 0 < probability < 1


def drop(values: Tensor, probability: float) -> tuple[Tensor, float]:
    """Returns the values, each set to zero with a probability, and the factor that restores their expectation.

    The probability is rounded to a multiple of 2^-16 for 16-bit numbers and of 2^-32 for 32-bit ones; the factor
    matches the rounded probability. The seed is drawn from PyTorch's generator.
    """
    num_choices = 2 ** (8 * values.element_size())
    # The words could not represent a threshold that keeps all elements; one that keeps none has no factor.
    num_kept = min(max(round((1 - probability) * num_choices), 1), num_choices - 1)
    kept: Tensor = _Drop.apply(values, num_kept)  # type: ignore[no-untyped-call]  # as torch has it
    return kept, num_choices / num_kept


class _Drop(torch.autograd.Function):
    """Sets elements to zero at random, without scaling the others, and the same elements of the gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, num_kept: int) -> Tensor:
        low, high = torch.randint(2**32, (2,)).tolist()
        ctx.num_kept, ctx.seed = num_kept, np.uint64(high << 32 | low)
        return _kept(values, num_kept, ctx.seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _kept(gradient, ctx.num_kept, ctx.seed), None


def _kept(values: Tensor, num_kept: int, seed: np.uint64) -> Tensor:
    flat = values.detach().contiguous().view(-1)
    if flat.data_ptr() % 4 or flat.nbytes % 4:
        # The loops read whole, aligned words.
        flat = torch.cat([flat, flat.new_zeros(flat.numel() % 2)])
    words = flat.view(torch.int32)
    result = torch.empty_like(words)
    loops = _keep_words if values.element_size() == 4 else _keep_half_words
    in_threads(loops, words.numpy().view(np.uint32), result.numpy().view(np.uint32), seed, np.uint32(num_kept))
    return result.view(values.dtype)[: values.numel()].view(values.shape)


@njit(inline="always")
def _keys(seed: np.uint64, chunk: np.uint64) -> tuple[np.uint32, np.uint32]:
    """Returns the two keys of a chunk: the halves of the number with the chunk's index in the SplitMix64 sequence.

    Source: Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators"; constants as in Vigna's
    public-domain splitmix64.c.
    """
    bits = np.uint64(seed + (chunk + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    bits = np.uint64((bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
    bits = np.uint64((bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
    bits = np.uint64(bits ^ (bits >> np.uint64(31)))
    return np.uint32(bits), np.uint32(bits >> np.uint64(32))


@njit(inline="always")
def _hash(index: np.uint32, first: np.uint32, second: np.uint32) -> np.uint32:
    """Returns 32 random bits: the finaliser of MurmurHash3, with one key added before it and one mixed in midway.

    With one pair of keys, indices some thousands apart are correlated, with a sign that depends on the keys. Each chunk
    therefore has its own keys, and the remaining correlations cancel over the chunks.
    """
    bits = np.uint32(index + first)
    bits = np.uint32((bits ^ (bits >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    bits = np.uint32(bits ^ second)
    bits = np.uint32((bits ^ (bits >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(bits ^ (bits >> np.uint32(16)))


@njit(parallel=True)
def _keep_words(words: Words, kept: Words, seed: np.uint64, num_kept: np.uint32) -> None:
    """Copies the 32-bit numbers whose hash is below a threshold and writes zeros for the others."""
    for chunk in prange((len(words) + _CHUNK - 1) // _CHUNK):
        start = chunk * _CHUNK
        source, target = words[start : start + _CHUNK], kept[start : start + _CHUNK]
        first, second = _keys(seed, np.uint64(chunk))
        for index in range(len(source)):
            bits = _hash(np.uint32(index), first, second)
            target[index] = source[index] if bits < num_kept else np.uint32(0)


@njit(parallel=True)
def _keep_half_words(words: Words, kept: Words, seed: np.uint64, num_kept: np.uint32) -> None:
    """Does the same for two 16-bit numbers at a time, each with half of a hash."""
    for chunk in prange((len(words) + _CHUNK - 1) // _CHUNK):
        start = chunk * _CHUNK
        source, target = words[start : start + _CHUNK], kept[start : start + _CHUNK]
        first, second = _keys(seed, np.uint64(chunk))
        for index in range(len(source)):
            bits = _hash(np.uint32(index), first, second)
            low = _LOW if np.uint32(bits & _LOW) < num_kept else np.uint32(0)
            high = _HIGH if np.uint32(bits >> _HALF) < num_kept else np.uint32(0)
            target[index] = source[index] & (low | high)
