"""What a search may choose about a student: the preset spaces and the code that reads one. Optuna's trial, no Ray."""
