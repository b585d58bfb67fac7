"""Tests of the maps of a teacher's embeddings to the width of a student."""

import numpy as np
import pytest

from minilm_core.tasks.embeddings import reduction
from minilm_core.tasks.embeddings.reduction import reduction_to

RANDOM = np.random.default_rng(0)
EMBEDDINGS = RANDOM.normal(loc=0.5, size=(50, 6)).astype(np.float32)


def of_student(width: int) -> np.ndarray:
    return np.random.default_rng(width).normal(size=(20, width))


def products(embeddings: np.ndarray) -> np.ndarray:
    return embeddings @ embeddings.T


def test_a_wider_student_learns_the_same_products() -> None:
    wider = EMBEDDINGS @ reduction_to(EMBEDDINGS, of_student(9))
    assert wider.shape == (50, 9)
    np.testing.assert_allclose(products(wider), products(EMBEDDINGS), rtol=1e-4)


def test_a_narrower_student_learns_the_best_products_of_its_width() -> None:
    """The best approximation of a matrix by one of lower rank has its largest singular values."""
    narrower = EMBEDDINGS @ reduction_to(EMBEDDINGS, of_student(3))
    left, values, right = np.linalg.svd(EMBEDDINGS.astype(np.float64), full_matrices=False)
    best = (left[:, :3] * values[:3]) @ right[:3]
    np.testing.assert_allclose(products(narrower), products(best), atol=1e-4)


@pytest.mark.parametrize("width", [3, 9])
def test_no_rotation_brings_them_nearer_to_the_untrained_student(width: int) -> None:
    student = of_student(width)
    reduced = EMBEDDINGS[:20] @ reduction_to(EMBEDDINGS, student)
    for _ in range(20):
        rotation, _ = np.linalg.qr(RANDOM.normal(size=(width, width)))
        assert np.linalg.norm(reduced - student) <= np.linalg.norm(reduced @ rotation - student)


def test_a_student_that_has_learnt_them_keeps_them() -> None:
    reduced = EMBEDDINGS @ reduction_to(EMBEDDINGS, of_student(3))
    np.testing.assert_allclose(EMBEDDINGS @ reduction_to(EMBEDDINGS, reduced), reduced, atol=1e-4)


def test_the_directions_do_not_depend_on_how_many_rows_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reduction_to(EMBEDDINGS, of_student(3))
    monkeypatch.setattr(reduction, "ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(reduction_to(EMBEDDINGS, of_student(3)), whole, atol=1e-4)
