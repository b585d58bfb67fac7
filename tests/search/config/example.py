"""The search.yaml that the tests of the settings begin with."""

SEARCH = """\
name: example
teacher:
  model: package:some_package/model
corpus:
  sources:
    - path: corpus.jsonl
tasks:
  - sst2
  - name: mrpc
    path: data/mrpc
space: tiny
distillation:
  relation_heads: 24
  num_steps: 100
  batch_size: 16
limits:
  max_parameters: 30M
  max_size_bytes: 100MB
  max_latency_ms: 20ms
budget:
  num_trials: 8
resources:
  workers_per_trial: 1
objectives: [accuracy, latency_ms]
"""
