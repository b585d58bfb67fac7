"""Maps a teacher's embeddings to the width of a student. No torch."""

import numpy as np
from jaxtyping import Float

ROWS_AT_ONCE = 65536
"""Embeddings that are converted to float64 at once."""


def reduction_to(
    embeddings: Float[np.ndarray, "texts dimensions"], of_student: Float[np.ndarray, "some width"]
) -> Float[np.ndarray, "dimensions width"]:
    """Returns the matrix that takes a teacher's embeddings to a student's width.

    For a narrower student it has the principal directions of the embeddings, which are not centred: of all matrices of
    this width they keep the products of embeddings best, and cosines are products, which a shift of the origin changes.
    For a wider student it adds zeros, which keeps all products. A rotation keeps them, too, so that the one is taken
    that brings the embeddings nearest to those that the student has before it learns them.

    Args:
        embeddings: The teacher's embeddings of all texts that are learnt.
        of_student: The untrained student's embeddings of the first texts.

    Source: Eckart and Young, 1936; Schönemann, 1966 (the orthogonal Procrustes problem).
    """
    dimensions, width = embeddings.shape[1], of_student.shape[1]
    reduction = np.eye(dimensions, width)
    if width < dimensions:
        # In order of rising eigenvalues.
        _, directions = np.linalg.eigh(_products(embeddings))
        reduction = directions[:, ::-1][:, :width]
    reduced = np.asarray(embeddings[: len(of_student)], dtype=np.float64) @ reduction
    left, _, right = np.linalg.svd(reduced.T @ of_student)
    return np.ascontiguousarray(reduction @ (left @ right), dtype=np.float32)


def _products(embeddings: Float[np.ndarray, "texts dimensions"]) -> Float[np.ndarray, "dimensions dimensions"]:
    """Returns the sum over texts of the products of each two dimensions."""
    products = np.zeros((embeddings.shape[1], embeddings.shape[1]))
    for start in range(0, len(embeddings), ROWS_AT_ONCE):
        part = np.asarray(embeddings[start : start + ROWS_AT_ONCE], dtype=np.float64)
        products += part.T @ part
    return products
