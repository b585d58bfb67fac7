"""Tests of the model of an embedding task: what it returns, and the folder that it is saved as."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from minilm_core.models.embedding_model import EmbeddingModel, pool
from minilm_core.models.sentence_files import Pooling, SentenceSettings
from minilm_core.runtimes.onnx_export import export_onnx
from minilm_core.runtimes.onnx_model import ONNX_FILE, OnnxModel
from minilm_core.runtimes.torch_model import load_packaged

TEXTS = ["the student learns", "a search finds what its teacher knows about text today"]


def save_model(teacher_folder: Path, folder: Path, pooling: Pooling = Pooling.MEAN) -> EmbeddingModel:
    settings = SentenceSettings(pooling=pooling, max_length=32)
    model = EmbeddingModel.from_pretrained(teacher_folder, settings=settings).eval()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(folder)
    return model


@pytest.mark.parametrize("pooling", Pooling)
def test_padding_has_no_part_in_an_embedding(pooling: Pooling) -> None:
    states = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected = {Pooling.MEAN: states[0, :3].mean(0), Pooling.CLS: states[0, 0], Pooling.MAX: states[0, :3].amax(0)}
    torch.testing.assert_close(pool(states, mask, pooling)[0], expected[pooling])


@pytest.mark.parametrize("pooling", Pooling)
def test_a_saved_model_gives_the_same_vectors_in_sentence_transformers(
    teacher_folder: Path, tmp_path: Path, pooling: Pooling
) -> None:
    library = pytest.importorskip("sentence_transformers", reason="the extra embedding is not installed")
    save_model(teacher_folder, tmp_path, pooling)
    ours = load_packaged(tmp_path).outputs(TEXTS)
    model = library.SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    torch.testing.assert_close(model.encode(TEXTS, convert_to_tensor=True), ours)
    torch.testing.assert_close(ours.norm(dim=1), torch.ones(2))
    assert model.max_seq_length == 32


def test_the_folder_is_whole_for_the_encoder_alone(teacher_folder: Path, tmp_path: Path) -> None:
    save_model(teacher_folder, tmp_path)
    encoder, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    pooler = AutoModel.from_pretrained(teacher_folder).pooler.dense.weight
    torch.testing.assert_close(encoder.pooler.dense.weight, pooler)


def test_every_parameter_that_learns_has_a_gradient(teacher_folder: Path, tmp_path: Path) -> None:
    model = save_model(teacher_folder, tmp_path)
    model(**load_packaged(tmp_path).tokens(TEXTS)).sentence_embedding.sum().backward()
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(parameter.grad is not None for parameter in learning.values())
    assert not any("pooler" in name for name in learning)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.MAX])
def test_the_export_gives_the_embedding(teacher_folder: Path, tmp_path: Path, pooling: Pooling) -> None:
    save_model(teacher_folder, tmp_path, pooling)
    export_onnx(tmp_path, tmp_path)
    packaged, exported = load_packaged(tmp_path), OnnxModel(tmp_path / ONNX_FILE)
    assert exported.output_names == ("sentence_embedding",)
    found = exported.run(packaged.tokens(TEXTS)).sentence_embedding
    torch.testing.assert_close(found, packaged.outputs(TEXTS), atol=1e-5, rtol=1e-4)
