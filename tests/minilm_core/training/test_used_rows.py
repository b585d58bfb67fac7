"""Tests of training only the rows of a token table that a data set uses."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from minilm_core.training.used_rows import UsedRows, only_used_rows
from tests.minilm_core.encoder_families import CONFIGS, write_teacher

TOKENS = torch.tensor([2, 3, 7, 11])


@pytest.fixture(params=sorted(CONFIGS))
def model(request: pytest.FixtureRequest, tmp_path: Path) -> nn.Module:
    write_teacher(request.param, tmp_path / "teacher")
    return AutoModelForSequenceClassification.from_pretrained(tmp_path / "teacher").eval()


def test_a_model_of_every_family_computes_the_same_and_keeps_its_table(model: nn.Module) -> None:
    table = model.get_input_embeddings()
    before, input_ids = table.weight.clone(), torch.tensor([[2, 7, 7, 11, 3]])
    with torch.no_grad():
        expected = model(input_ids).logits
        with only_used_rows(model, TOKENS):
            assert torch.equal(model(input_ids).logits, expected)
            rows = model.get_input_embeddings()
            assert rows.weight.shape == (4, before.shape[1])
            rows.weight += 1
    assert model.get_input_embeddings() is table
    assert torch.equal(table.weight[TOKENS], before[TOKENS] + 1)
    others = torch.ones(len(before), dtype=torch.bool).index_fill(0, TOKENS, False)
    assert torch.equal(table.weight[others], before[others])


def test_an_error_leaves_the_model_with_its_table(model: nn.Module) -> None:
    table = model.get_input_embeddings()
    with pytest.raises(RuntimeError, match="stop"), only_used_rows(model, TOKENS):
        raise RuntimeError("stop")
    assert model.get_input_embeddings() is table


def test_the_padding_token_has_no_gradient_as_in_the_table() -> None:
    table = nn.Embedding(6, 2, padding_idx=0)
    rows = UsedRows(table, torch.tensor([0, 4]))
    input_ids = torch.tensor([[4, 4, 0]])
    for module in (table, rows):
        module(input_ids).sum().backward()
    assert torch.equal(rows.weight.grad, table.weight.grad[[0, 4]])
    assert torch.equal(rows.weight.grad, torch.tensor([[0.0, 0.0], [2.0, 2.0]]))
