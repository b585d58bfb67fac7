"""Teachers with a tokenizer of each kind whose vocabulary can be cut, trained on the project's own documents."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertTokenizerFast, PretrainedConfig, PreTrainedTokenizerFast, RobertaConfig

from tests.documents import text_of

SEEN = ("README.md", "search/README.md", "minilm_core/README.md")
"""Documents whose tokens are counted; they name tokens in capitals, code, accents and dashes."""
UNSEEN = ("reports/README.md", "spaces/README.md", "tests/README.md", "CHANGELOG.md")
"""Documents on which tokenizers are compared."""
KINDS = ("WordPiece", "Unigram", "BPE")
BERTS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTAS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def lines_of(names: tuple[str, ...]) -> list[str]:
    return [line for name in names for line in text_of(name).splitlines() if line.strip()]


def write_folder(kind: str, folder: Path) -> PretrainedConfig:
    """Writes tokenizer and configuration of a teacher, and returns the latter."""
    lines = lines_of((*SEEN, *UNSEEN))
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    if kind == "WordPiece":
        tokenizer = _trained_word_piece(lines)
        # The special tokens are not the first ones, as in the authors' vocabularies.
        pieces = sorted(tokenizer.get_vocab().keys() - set(BERTS))
        pieces[7:7] = BERTS
        BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)}).save_pretrained(folder)
        # The table has rows that no token uses.
        config: PretrainedConfig = BertConfig(**sizes, vocab_size=len(pieces) + 3, pad_token_id=7)
    else:
        tokenizer = _trained_unigram(lines) if kind == "Unigram" else _trained_byte_pair(lines)
        names = {"bos": "<s>", "cls": "<s>", "pad": "<pad>", "eos": "</s>", "sep": "</s>", "unk": "<unk>"}
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, mask_token="<mask>", **{f"{name}_token": token for name, token in names.items()}
        )
        fast.save_pretrained(folder)
        ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
        config = RobertaConfig(**sizes, **ids, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=66)
    config.save_pretrained(folder)
    return config


def _trained_word_piece(lines: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=1500, special_tokens=BERTS, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def _trained_unigram(lines: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=1500, special_tokens=ROBERTAS, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def _trained_byte_pair(lines: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=ROBERTAS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer
