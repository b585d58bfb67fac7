"""Runs searches in parallel: Ray and Optuna live here, one package for each level of the process tree."""
