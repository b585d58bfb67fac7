"""A MiniLM student: how it is built, how it learns, how it is measured and shipped. PyTorch, never Ray or Optuna."""
