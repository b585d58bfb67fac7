"""Vocabularies cut to the tokens that a study's texts have: which stay, the tokenizer with them, and its check."""
