"""What a search may choose: one YAML file a space, and the code that reads one. Optuna's trial type, never Ray."""
