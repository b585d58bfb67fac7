"""Small tokenizers of the kinds that encoders have, trained on sentences in several scripts."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "The search finds a student of the teacher in 1999, and ships it for €5 million.",
    "Die Suche findet 1871 einen Schüler in Köln, der klein genug ist.",
    "La búsqueda encuentra un alumno en los años noventa; ¿cuál es el mejor?",
    "北京市在2008年8月8日举办了奥运会。《红楼梦》是一部小说。",
    "अध्यापक १९४७ में दिल्ली में पढ़ाता था।",
    "المعلم يجد الطالب في الولايات المتحدة.",
    "Người thầy tìm thấy học trò ở Hà Nội.",
] * 4


def word_piece() -> PreTrainedTokenizerFast:
    """Lower-case WordPiece without accents, which splits Chinese characters, as in BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _finished(tokenizer, trainers.WordPieceTrainer, "[CLS]", "[SEP]", "[PAD]", "[UNK]", type_ids=True)


def byte_level() -> PreTrainedTokenizerFast:
    """BPE of bytes whose tokens begin with a blank, as in RoBERTa."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _finished(
        tokenizer, trainers.BpeTrainer, "<s>", "</s>", "<pad>", "<unk>", separators=2, initial_alphabet=alphabet
    )


def unigram() -> PreTrainedTokenizerFast:
    """Pieces of SentencePiece, which mark a word's beginning, after NFKC, as in XLM-R."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return _finished(
        tokenizer, trainers.UnigramTrainer, "<s>", "</s>", "<pad>", "<unk>", separators=2, unk_token="<unk>"
    )


TOKENIZERS = {"word piece": word_piece, "byte level": byte_level, "unigram": unigram}


def _finished(
    tokenizer: Tokenizer,
    trainer: type,
    cls: str,
    sep: str,
    pad: str,
    unk: str,
    *,
    separators: int = 1,
    type_ids: bool = False,
    **options: object,
) -> PreTrainedTokenizerFast:
    special = [cls, pad, sep, unk]
    tokenizer.train_from_iterator(
        SENTENCES, trainer(vocab_size=400, special_tokens=special, show_progress=False, **options)
    )
    ids = [(token, tokenizer.token_to_id(token)) for token in (cls, sep)]
    second = 1 if type_ids else 0
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {' '.join([sep] * separators)} $B:{second} {sep}:{second}",
        special_tokens=ids,
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token=cls,
        sep_token=sep,
        pad_token=pad,
        unk_token=unk,
        model_input_names=["input_ids", "attention_mask", *["token_type_ids"][: int(type_ids)]],
    )
