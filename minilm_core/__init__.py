"""MiniLM students: building, distilling, measuring and packaging them. Uses PyTorch, never Ray or Optuna."""
