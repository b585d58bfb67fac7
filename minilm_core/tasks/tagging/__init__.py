"""Tags of words: their place among a text's tokens, and the entities that they stand for.

Nothing here needs a model: the training and the head of tagging tasks are in `minilm_core.tasks.kinds.tagging`."""
