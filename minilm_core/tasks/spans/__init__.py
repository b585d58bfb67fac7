"""Answers in a context: their reading, windows of long contexts, the choice of an answer from scores, and its metrics.

Nothing here needs a model: the training and the head of span tasks are in `minilm_core.tasks.kinds.span`."""
