"""Tiny encoders of every supported family and of its variants with other shapes."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import (
    AutoModel,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from tests.minilm_core.distilling import SENTENCE
from tests.paths import ROOT

SIZES = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}
TABLES = {"vocab_size": 40, "max_position_embeddings": 66, "pad_token_id": 1}
ROBERTA = {**SIZES, **TABLES, "type_vocab_size": 1}
DEBERTA = {**SIZES, **TABLES, "relative_attention": True}
MODERNBERT = {
    **SIZES,
    **TABLES,
    "cls_token_id": 0,
    "sep_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 2,
    # The window is shorter than the rows of the tests.
    "local_attention": 6,
}

CONFIGS: dict[str, PretrainedConfig] = {
    "bert": BertConfig(**SIZES, **TABLES),
    "roberta": RobertaConfig(**ROBERTA),
    "xlm-roberta": XLMRobertaConfig(**ROBERTA),
    "camembert": CamembertConfig(**ROBERTA),
    "electra": ElectraConfig(**SIZES, **TABLES, embedding_size=16),
    "electra-base": ElectraConfig(**SIZES, **TABLES, embedding_size=24),
    "distilbert": DistilBertConfig(**TABLES, dim=24, n_layers=4, n_heads=4, hidden_dim=96),
    "mpnet": MPNetConfig(**SIZES, **TABLES),
    "deberta-v3": DebertaV2Config(
        **DEBERTA,
        position_buckets=4,
        share_att_key=True,
        pos_att_type="p2c|c2p",
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        attention_head_size=6,
        pooler_hidden_size=24,
    ),
    "deberta-v2": DebertaV2Config(
        **DEBERTA,
        position_buckets=4,
        pos_att_type="p2c|c2p",
        norm_rel_ebd="layer_norm",
        conv_kernel_size=3,
        conv_act="gelu",
        type_vocab_size=2,
    ),
    "deberta-one-term": DebertaV2Config(**DEBERTA, pos_att_type="c2p", max_relative_positions=5),
    "deberta-absolute": DebertaV2Config(**{**DEBERTA, "relative_attention": False}),
    "modernbert": ModernBertConfig(**{**MODERNBERT, "intermediate_size": 36}),
    "modernbert-biased": ModernBertConfig(**MODERNBERT, attention_bias=True, mlp_bias=True, norm_bias=True),
}

REAL_TEACHERS = ROOT / "build" / "teachers"


def real_teacher(name: str) -> Path:
    """Returns the folder of a published encoder, or skips the test if there is none."""
    folder = REAL_TEACHERS / name
    if not folder.is_dir():
        pytest.skip(f"no published encoder in build/teachers/{name}")
    return folder


def write_teacher(name: str, folder: Path) -> None:
    """Writes an encoder with random weights and a tokenizer with real words, in the Hub's layout."""
    build(name).save_pretrained(folder)
    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(set(SENTENCE.split())), "."]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    # DeBERTa's tokenizer returns token types even if the encoder does not use them.
    has_token_types = getattr(CONFIGS[name], "type_vocab_size", 0) > 1 or name == "deberta-v3"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="<s>",
        pad_token="<pad>",
        sep_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask", *["token_type_ids"][: int(has_token_types)]],
    ).save_pretrained(folder)


def build(name: str, *, seed: int = 0, scale: float = 12.0, **settings: object) -> PreTrainedModel:
    """Returns an encoder with larger random weights than usual, so that its attention is far from uniform."""
    config = CONFIGS[name].from_dict({**CONFIGS[name].to_dict(), **settings})
    torch.manual_seed(seed)
    encoder = AutoModel.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            # This includes biases and norms, which start at zero and one.
            parameter.add_(0.05 * torch.randn(parameter.shape)).mul_(scale if parameter.ndim > 1 else 1.0)
    return encoder


def layers_of(encoder: PreTrainedModel) -> nn.ModuleList:
    """Returns the layers of an encoder of any family."""
    if encoder.config.model_type == "modernbert":
        return encoder.layers
    return encoder.transformer.layer if encoder.config.model_type == "distilbert" else encoder.encoder.layer


def projections_of(layer: nn.Module, model_type: str) -> dict[str, nn.Module]:
    """Returns the projections to queries, keys and values; ModernBERT has one for all."""
    match model_type:
        case "modernbert":
            return {"all": layer.attn.Wqkv}
        case "distilbert":
            part = layer.attention
            return {"query": part.q_lin, "key": part.k_lin, "value": part.v_lin}
        case "mpnet":
            part = layer.attention.attn
            return {"query": part.q, "key": part.k, "value": part.v}
        case "deberta-v2":
            part = layer.attention.self
            return {"query": part.query_proj, "key": part.key_proj, "value": part.value_proj}
    part = layer.attention.self
    return {"query": part.query, "key": part.key, "value": part.value}


class Seen:
    """Records the states and vectors in transformers' own modules of a layer, as the reference for an adapter."""

    def __init__(self, encoder: PreTrainedModel, layer: int, inputs: dict[str, Tensor]) -> None:
        block = layers_of(encoder)[layer - 1]
        maps = projections_of(block, encoder.config.model_type)
        vectors: dict[str, Tensor] = {}

        def keep(name: str, value: Tensor) -> None:
            # A projection may run a second time, on positions; the first call is on the states.
            vectors.setdefault(name, value)

        handles = [block.register_forward_pre_hook(lambda _m, args: keep("states", args[0]))]
        handles += [
            module.register_forward_hook(lambda _m, _i, out, name=name: keep(name, out))
            for name, module in maps.items()
        ]
        outputs = encoder(**inputs, output_attentions=True)
        for handle in handles:
            handle.remove()
        if "all" in vectors:
            vectors |= zip(("query", "key", "value"), vectors.pop("all").chunk(3, dim=-1), strict=True)
        self.states = vectors.pop("states")
        self.vectors = vectors
        self.attention: Tensor = outputs.attentions[layer - 1]
