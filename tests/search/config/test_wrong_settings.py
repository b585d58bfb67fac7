"""Tests of wrong settings: each is refused in one line, with the line of search.yaml that it is in."""

import pytest

from minilm_core.errors import UserError
from search.config.loading import load_config
from tests.search.config.example import SEARCH


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("num_trials: 8", "num_trials: eight", "21: budget.num_trials must be an integer, got 'eight'"),
        ("num_trials: 8", "num_trials: 0", "21: budget.num_trials must be at least 1, got 0"),
        ("num_trials: 8", "num_trails: 8", "21: unknown key 'budget.num_trails'; did you mean 'num_trials'?"),
        (
            "space: tiny",
            "space: tiny\nstopping: {rungs: [5, 5]}",
            "12: stopping.rungs must be rising numbers of steps from 1 on, got 5, 5",
        ),
        (
            "space: tiny",
            "space: tiny\nstopping: never",
            "12: stopping: must be off or a mapping of settings, got never",
        ),
        (
            "space: tiny",
            "space: tiny\nstopping: {rungs: [1, 10000000]}",
            "12: stopping.rungs must be below distillation.num_steps,",
        ),
        (
            "space: tiny",
            "space: tiny\nsampler: {begin_with: [9x384]}",
            "12: sampler.begin_with must name students of the space: a student must be in the space (",
        ),
        (
            "space: tiny",
            "space: tiny\nsampler: {begin_with: [small]}",
            "12: sampler.begin_with must name students as LAYERSxWIDTH, such as 6x384, got small",
        ),
        (
            "space: tiny",
            "space: tiny\nsampler: {begin_with: best}",
            "12: sampler.begin_with: must be published or a list of students such as 6x384, got best",
        ),
        (
            "space: tiny",
            "space: {num_layers: 6}\nsampler: {begin_with: published}",
            "12: sampler.begin_with: must have a published student (",
        ),
        ("name: example", "name: My Study", "1: name must be lower-case letters, digits, '.', '_' or '-'"),
        ("name: example", "name: ../x", "1: name must be lower-case letters"),
        ("name: example\n", "", "1: name must be given"),
        ("space: tiny", "space: huge", "11: space: a space must be one of cpu_serving, minilm, multilingual, tiny or"),
        ("  - sst2", "  - sst3", "8: tasks.0: a named task must be one of sst2,"),
        ("  - sst2", "  - mrpc", "7: tasks must have different names, got mrpc, mrpc"),
        (
            "    path: data/mrpc",
            "    path: data/mrpc\n    evaluation_sets: [mlqa-fr]",
            "11: tasks.1.evaluation_sets.0: a named evaluation set must be one of xnli-ar,",
        ),
        (
            "    path: data/mrpc",
            "    path: data/mrpc\n    kind: generation",
            "11: tasks.1.kind must be one that an encoder can do, got generation",
        ),
        (
            "space: tiny",
            "space: tiny\nfinetuning: {preset: glu}",
            "12: finetuning.preset must be one of glue, glue-small, squad2, xnli, mlqa, search, got 'glu'",
        ),
        (
            "space: tiny",
            "space: tiny\nfinetuning: {soft_labels: {weight: 2, temperature: 1}}",
            "12: finetuning.soft_labels.weight must be between 0 and 1, got 2",
        ),
        (
            "space: tiny",
            "space: tiny\nfinetuning: {soft_labels: {weight: 0.9}}",
            "12: finetuning.soft_labels.temperature must be given",
        ),
        (
            "space: tiny",
            "baselines: {teacher: false}\nspace: tiny\nfinetuning: {soft_labels: {weight: 0.9, temperature: 2}}",
            "11: baselines.teacher must be true with finetuning.soft_labels, which are the fine-tuned teacher's",
        ),
        (
            "    path: data/mrpc",
            "    path: data/mrpc\n    unlabelled: [more.jsonl]",
            "7: tasks must have no unlabelled texts without finetuning.soft_labels, got some for task mrpc",
        ),
        (
            "    path: data/mrpc",
            "    path: data/mrpc\n    unlabelled: [more.conll]",
            "11: tasks.1.unlabelled must be files that end in .parquet, .jsonl, .csv, got more.conll",
        ),
        ("    path: data/mrpc", "    pth: data/mrpc", "10: unknown key 'tasks.1.pth'; did you mean 'path'?"),
        (
            "relation_heads: 24",
            "relation_heads: 36",
            "13: distillation.relation_heads must divide every hidden size of the space, got 36 and 96",
        ),
        (
            "relation_heads: 24",
            "method: minilmv2",
            "12: distillation.relation_heads must be at least 1 with method minilmv2, got None",
        ),
        ("30M", "30 million", "17: limits.max_parameters: a count must be positive such as 30000000 or 30M, got"),
        ("100MB", "-1", "18: limits.max_size_bytes must be positive, got -1"),
        ("[accuracy, latency_ms]", "[latency_ms]", "24: objectives must name accuracy, got latency_ms"),
        ("[accuracy, latency_ms]", "[]", "24: objectives must name accuracy, got none"),
        ("[accuracy, latency_ms]", "[accuracy, speed]", "24: objectives must each be a known name, given once: an"),
        ("[accuracy, latency_ms]", "[accuracy, accuracy]", "24: objectives must each be a known name, given once: e"),
        (
            "workers_per_trial: 1",
            "workers_per_trial: 3",
            "15: distillation.batch_size must be a multiple of resources.workers_per_trial, got 16 and 3",
        ),
        (
            "workers_per_trial: 1",
            "workers_per_trial: 2\n  executor: direct",
            "23: resources.workers_per_trial must be 1 with executor direct, got 2",
        ),
        ("workers_per_trial: 1", "executor: slurm", "23: resources.executor must be 'auto', 'direct' or 'train', got"),
        (
            "    - path: corpus.jsonl",
            "    - task: moods",
            "5: corpus.sources must name tasks that have texts (sst2, mrpc), got task moods",
        ),
        ("    - path: corpus.jsonl", "    - file: corpus.jsonl", "6: unknown key 'corpus.sources.0.file'; must be one"),
        ("budget:\n  num_trials: 8\n", "seed: -1\nbudget: {num_trials: 8}\n", "20: seed must be at least 0 and below"),
        ("teacher:\n", "tutor: x\nteacher:\n", "2: unknown key 'tutor'; must be one of name, seed, teacher,"),
        ("budget:\n", "budget:\n  num_trials: 8\n", "22: each key must be given once, got budget.num_trials twice"),
        (
            "budget:\n",
            "assistant: yes please\nbudget:\n",
            "20: assistant: must be auto, the paper's rule, or a mapping",
        ),
        ("budget:\n", "assistant: {num_layers: 0}\nbudget:\n", "20: assistant.num_layers must be at least 1, got 0"),
        ("budget:\n", "storage: {max_cache_bytes: -1}\nbudget:\n", "20: storage.max_cache_bytes must be at least 0, g"),
        (
            "workers_per_trial: 1",
            "students_per_worker: 0",
            "23: resources.students_per_worker must be at least 1, got 0",
        ),
        (
            "budget:\n",
            "vocabulary: many\nbudget:\n",
            "20: vocabulary: must be full, corpus or a count such as 16k, got",
        ),
        ("budget:\n", "vocabulary: 0\nbudget:\n", "20: vocabulary must be at least 1, got 0"),
        ("budget:\n", "vocabulary: 0.5\nbudget:\n", "20: vocabulary must be full, corpus or an integer, got 0.5"),
        ("budget:\n", "vocabulary: [9]\nbudget:\n", "20: vocabulary must be full, corpus or an integer, got a list"),
        ("name: example", "name: [example", "2: must be valid YAML, got: expected ',' or ']', but got ':'"),
    ],
)
def test_a_wrong_search_yaml_is_refused_in_one_line(write, old, new, line):
    assert old in SEARCH
    with pytest.raises(UserError) as refusal:
        load_config(write(SEARCH.replace(old, new, 1)))
    assert str(refusal.value).startswith(f"search.yaml:{line}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("budget.num_trials=many", "--set budget.num_trials=many: budget.num_trials must be an integer, got 'many'"),
        ("budget.trials=3", "--set budget.trials=3: unknown key 'budget.trials'; did you mean 'num_trials'?"),
        ("sed=3", "--set sed=3: unknown key 'sed'; did you mean 'seed'?"),
        ("name.first=x", "--set name.first=x: name must be a mapping to have the key first, got 'example'"),
        ("limits.max_latency_ms=fast", "--set limits.max_latency_ms=fast: limits.max_latency_ms: a duration must be"),
    ],
)
def test_a_wrong_override_is_refused_in_one_line(write, override, line):
    with pytest.raises(UserError) as refusal:
        load_config(write(), [override])
    assert str(refusal.value).startswith(line)
    assert "\n" not in str(refusal.value)
