"""The kinds of task behind one interface: how each reads, encodes, is learnt, predicts, and is scored.

A kind knows nothing of schedules or of the training loop, which is `minilm_core.tasks.finetuning`."""
