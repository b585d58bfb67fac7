"""The facts that a package states as JSON: the student's figures and where it comes from. No torch."""

import dataclasses
from datetime import UTC, datetime
from typing import Any

from minilm_core.deployment.source import PackageSource, evaluations_by_split
from minilm_core.latency.target import Device, fingerprint
from minilm_core.provenance import source_state, versions_of
from minilm_core.results.records import TaskResult

VERSIONED_PACKAGES = ("minilm-search", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def evaluation(source: PackageSource) -> dict[str, Any]:
    """Returns the content of eval.json: scores with their intervals, sizes and latency."""
    record, table = source.record, source.latency_table
    return {
        "tasks": {name: _scores(task) for name, task in record.tasks.items()},
        "vocabulary_size": record.vocabulary_size,
        "num_parameters": record.num_parameters,
        "size_bytes": record.size_bytes,
        "int8_size_bytes": record.int8_size_bytes,
        "flops": record.flops,
        "latency_ms": record.latency_ms,
        "latency": None
        if table is None
        else {
            "target": table.target.label,
            "device": table.fingerprint.label,
            "is_predicted": True,
            "statistic": table.statistic,
            "held_out_error": table.held_out_error,
            "noise": table.noise,
        },
    }


def provenance(source: PackageSource) -> dict[str, Any]:
    """Returns the content of provenance.json: study, teacher, training, machine and software."""
    record, machine, code = source.record, fingerprint(Device.CPU), source_state()
    return {
        "study": source.study,
        "trial": record.number,
        "config_sha256": source.config_sha256,
        "teacher": source.teacher,
        "base_model": source.base_model,
        "licence": source.licence,
        "method": source.method,
        "seed": record.seed,
        "trained_at": record.finished_at,
        "trained_on": record.device,
        "architecture": dataclasses.asdict(record.architecture),
        "packaged_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "packaged_on": {"processor": machine.processor, "isa": machine.isa},
        "versions": versions_of(VERSIONED_PACKAGES),
        "git_commit": None if code is None else code.commit,
    }


def _scores(task: TaskResult) -> dict[str, Any]:
    """Returns the scores of the packaged model and, if several seeds fine-tuned it, the means over them."""
    kept = task.of_kept_model
    means = {split: found.value for split, found in evaluations_by_split(task).items()}
    over_seeds = {"mean_over_seeds": {"num_seeds": task.num_seeds, **means}} if task.seeds else {}
    return {"metric": task.metric, "null_threshold": kept.null_threshold, **over_seeds} | {
        split: {"value": found.value, "low": found.low, "high": found.high, "num_examples": found.num_examples}
        | ({"further": found.further} if found.further else {})
        for split, found in evaluations_by_split(kept).items()
    }
