"""Tests of the comparison with the peer: on full rows its loss is the same function as the product's.

On padded rows the two differ. The peer averages over each row and then over rows, so that a token of a short row has a
larger weight. The product, whose rows are full, averages over all real tokens.
"""

import pytest
import torch

from minilm_core.models.architecture import StudentArchitecture
from tests.benchmarks.cases import Batch, Case, Pair, Variant
from tests.benchmarks.measure import Rounds, time_case
from tests.benchmarks.peer import PEER_LOSS
from tests.benchmarks.steps import build_student, build_teacher, compared_losses, fill_cache

pytestmark = pytest.mark.skipif(not PEER_LOSS.is_file(), reason="the peer is not in build/peer; make bench installs it")

CASE = Case(
    pair=Pair(
        teacher=StudentArchitecture(num_layers=3, hidden_size=48, num_heads=4),
        student=StudentArchitecture(num_layers=2, hidden_size=24, num_heads=2),
        relation_heads=6,
    ),
    batch=Batch(num_rows=3, sequence_length=17),
)


@pytest.fixture
def losses():
    """The product's loss, the peer's loss, and the student of both; all in float64."""
    student = build_student(CASE.pair).double()
    ours, theirs = compared_losses(CASE, build_teacher(CASE.pair).double(), student)
    return ours, theirs, student


def test_the_peers_loss_is_the_products(losses):
    ours, theirs, _ = losses
    assert theirs > 1e-6
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)


def test_the_peers_gradient_is_the_products(losses):
    ours, theirs, student = losses
    parameters = list(student.parameters())
    of_ours, of_theirs = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (ours, theirs))
    learning = [pair for pair in zip(of_ours, of_theirs, strict=True) if pair[1] is not None]
    assert len(learning) > 20
    for mine, peers in learning:
        torch.testing.assert_close(mine, peers, rtol=1e-7, atol=1e-14)


def test_every_variant_takes_steps(tmp_path):
    fill_cache(CASE, tmp_path)
    seconds = time_case(CASE, Rounds.exactly("1"), tmp_path)
    assert set(seconds) == set(Variant)
    assert all(len(runs) == 1 and runs[0] > 0 for runs in seconds.values())
