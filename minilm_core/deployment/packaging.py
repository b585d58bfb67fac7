"""A deployment folder: a student, its tokenizer, its card, where it comes from and what it must answer."""

import dataclasses
import hashlib
import json
import math
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from minilm_core.atomic import atomic_folder, write_text_atomically
from minilm_core.errors import UserError
from minilm_core.latency.table import Device, LatencyTable, fingerprint
from minilm_core.models.families import max_sequence_length
from minilm_core.results.records import Evaluation, TaskResult, TrialRecord
from minilm_core.runtimes.torch_model import is_classifier, load_packaged

REQUIRED_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
OPTIONAL_FILES = (
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
)
SUMS_FILE = "SHA256SUMS"
REFERENCE_FILE = "reference.json"
PROVENANCE_FILE = "provenance.json"
REFERENCE_TOLERANCE = 1e-3
"""Largest difference from the recorded outputs that another machine's fp32 arithmetic may make."""
REFERENCE_SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "Returns the sum of two numbers, or raises an error if either is missing.",
    "It was, all things considered, not as bad as we had feared.",
    "ok",
)
HUB_METRICS = {"matthews": "matthews_correlation", "spearman": "spearmanr", "pearson": "pearsonr"}
"""Names on the Hub of metrics that are called something else here."""
VERSIONED_PACKAGES = ("minilm-search", "torch", "transformers", "tokenizers", "safetensors", "numpy")

CARD_TEMPLATE = str(Path(__file__).parent / "templates" / "model_card.md")
"""The model card, in jinja."""

Addition = Callable[[Path], object]
"""Writes more files into a folder that is being packaged, and may refuse it: an export, say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageSource:
    """What is packaged and what its card says of it."""

    model_folder: Path
    """A trained student as `save_pretrained` leaves it, with its tokenizer."""
    record: TrialRecord
    task: str
    """The task the student was fine-tuned on; names one of the record's results."""
    study: str
    config_sha256: str
    """Of the study's resolved search.yaml."""
    teacher: str
    """The teacher's name, as the study gives it."""
    method: str
    """The distillation method's name."""
    licence: str | None
    """The Hub's identifier for the licence of the teacher's weights, which a student inherits; None: not stated."""
    base_model: str | None = None
    """The teacher's name on the Hub, where it has one."""
    language: str | None = None
    latency_table: LatencyTable | None = None
    """What the record's latency was predicted from."""
    decision: Path | None = None
    """decision.json: why this student was picked."""


def package(source: PackageSource, out: Path, *, additions: Sequence[Addition] = (), overwrite: bool = False) -> Path:
    """Makes the deployment folder, whole or not at all, and returns it.

    Args:
        additions: run in order on the unfinished folder, before its checksums are taken.
        overwrite: replace the package that is there.

    Raises:
        UserError: if the student's folder lacks a file, the task has no result, or `out` is not empty.
    """
    out = out.resolve()
    _check(source, out, overwrite)
    with atomic_folder(out) as folder:
        _copy_model(source, folder)
        for addition in additions:
            addition(folder)
        _write_json(folder / REFERENCE_FILE, _reference(source.model_folder))
        _write_json(folder / "eval.json", _evaluation(source))
        _write_json(folder / PROVENANCE_FILE, _provenance(source))
        _card(source, folder).save(folder / "README.md")
        write_text_atomically(folder / SUMS_FILE, _sums(folder))
        if overwrite and out.is_dir():
            shutil.rmtree(out)
    return out


def sha256_of(path: Path) -> str:
    """Returns a file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(source: PackageSource, out: Path, overwrite: bool) -> None:
    for name in REQUIRED_FILES:
        if not (source.model_folder / name).is_file():
            raise UserError(f"a student's folder must hold {name}, {source.model_folder} does not")
    if source.task not in source.record.tasks:
        tasks = ", ".join(source.record.tasks) or "none"
        raise UserError(f"task must be one of the trial's tasks ({tasks}), got {source.task}")
    if source.decision is not None and not source.decision.is_file():
        raise UserError(f"decision must be a file written by pick, got {source.decision}")
    is_replaceable = overwrite and (out / SUMS_FILE).is_file() and not source.model_folder.resolve().is_relative_to(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not is_replaceable):
        allowed = "new, empty or a package" if overwrite else "new or empty"
        raise UserError(f"the folder to package into must be {allowed}, got {out}")


def _copy_model(source: PackageSource, folder: Path) -> None:
    for name in REQUIRED_FILES + OPTIONAL_FILES:
        if (source.model_folder / name).is_file():
            shutil.copyfile(source.model_folder / name, folder / name)
    _limit_length(folder)
    if source.decision is not None:
        shutil.copyfile(source.decision, folder / "decision.json")


def _limit_length(folder: Path) -> None:
    """Makes the tokenizer cut texts to the positions that the student has, where nothing or more is said."""
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    num_positions = max_sequence_length(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    if settings.get("model_max_length", math.inf) > num_positions:
        _write_json(file, settings | {"model_max_length": num_positions})


def _reference(model_folder: Path) -> dict[str, Any]:
    # Taken from the folder that was trained, not from the copy: so a verification also compares the two.
    outputs = load_packaged(model_folder).outputs(REFERENCE_SENTENCES)
    return {"tolerance": REFERENCE_TOLERANCE, "texts": REFERENCE_SENTENCES, "outputs": outputs.tolist()}


def _evaluation(source: PackageSource) -> dict[str, Any]:
    record, table = source.record, source.latency_table
    return {
        "tasks": {name: _scores(task) for name, task in record.tasks.items()},
        "num_parameters": record.num_parameters,
        "size_bytes": record.size_bytes,
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


def _scores(task: TaskResult) -> dict[str, Any]:
    return {"metric": task.metric} | {
        split: {"value": e.value, "low": e.low, "high": e.high, "num_examples": len(e.predictions)}
        for _, split, e in _splits(task)
    }


def _provenance(source: PackageSource) -> dict[str, Any]:
    record, machine = source.record, fingerprint(Device.CPU)
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
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in VERSIONED_PACKAGES},
        "git_commit": _git_commit(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _card(source: PackageSource, folder: Path) -> ModelCard:
    record = source.record
    data = ModelCardData(
        model_name=_title(source),
        base_model=source.base_model,
        language=source.language,
        license=source.licence,
        library_name="transformers",
        pipeline_tag="text-classification" if is_classifier(folder) else "feature-extraction",
        tags=["minilm", "distillation"],
        eval_results=[_eval_result(name, *split) for name, task in record.tasks.items() for split in _splits(task)],
    )
    card: ModelCard = ModelCard.from_template(
        data,
        template_path=CARD_TEMPLATE,
        title=_title(source),
        source=source,
        record=record,
        splits=[(name, *split) for name, task in record.tasks.items() for split in _splits(task)],
        model_class="AutoModelForSequenceClassification" if is_classifier(folder) else "AutoModel",
        onnx_files=sorted(path.name for path in folder.glob("onnx/*.onnx")),
    )
    return card


def _title(source: PackageSource) -> str:
    return f"{source.study} trial {source.record.number} ({source.record.architecture.label})"


def _splits(task: TaskResult) -> list[tuple[str, str, Evaluation]]:
    splits = (("validation", task.validation), ("test", task.test))
    return [(task.metric, split, evaluation) for split, evaluation in splits if evaluation is not None]


def _eval_result(task: str, metric: str, split: str, evaluation: Evaluation) -> EvalResult:
    return EvalResult(
        task_type="text-classification",
        dataset_type=task,
        dataset_name=task,
        dataset_split=split,
        metric_type=HUB_METRICS.get(metric, metric),
        metric_value=evaluation.value,
        metric_args={"interval": "95 % bootstrap over examples", "low": evaluation.low, "high": evaluation.high},
    )


def _sums(folder: Path) -> str:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
