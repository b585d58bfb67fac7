"""Who searches, in parallel: Ray and Optuna live here, one file a level of the process tree."""
