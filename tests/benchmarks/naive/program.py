"""A search of students as one writes it from public packages: Ray Tune, bertdistiller's loss, transformers' Trainer.

    python program.py SETTINGS.json RESULT.json

Text and tasks are tokenised once, before the trials. A trial distils one student, with the teacher beside it, and
fine-tunes it on every task. Batches are padded to their longest example and made of examples of similar length; each
process has its number of threads, and bf16 where the processor has it.
"""

import json
import sys
import time
from collections.abc import Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from bertdistiller import MiniLMTrainer, MiniLMTrainingArguments, create_student
from bertdistiller.distillation.minilm.trainer import AttentionExtractor, BertAttentionExtractor
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from ray import tune
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

Settings = Mapping[str, Any]

EVALUATION_BATCH_SIZE = 64
DOCUMENTS_AT_ONCE = 2000
"""The documents that are cut into rows together; the end of the last of them is dropped."""


def main() -> None:
    """Prepares the data, runs all trials, and writes their figures."""
    settings_file, result_file = map(Path, sys.argv[1:])
    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    started = time.monotonic()
    prepare(settings)
    preparation_seconds = time.monotonic() - started
    num_cpus = settings["num_threads"] * settings["num_concurrent"]
    ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(partial(trial, settings=settings), {"cpu": settings["num_threads"]}),
        param_space={"student": tune.grid_search(settings["students"])},
        tune_config=tune.TuneConfig(max_concurrent_trials=settings["num_concurrent"]),
        run_config=tune.RunConfig(name="tune", storage_path=str(Path(settings["work"]).resolve()), verbose=0),
    )
    results = tuner.fit()
    if results.errors:
        raise results.errors[0]
    students = [result.metrics["figures"] for result in results]
    result_file.write_text(json.dumps({"preparation_seconds": preparation_seconds, "students": students}))


def prepare(settings: Settings) -> None:
    """Tokenises the text and the tasks, and writes them to disk, where trials find them."""
    tokenizer = AutoTokenizer.from_pretrained(settings["teacher"])
    work = Path(settings["work"])
    packed_rows(settings, tokenizer).save_to_disk(work / "rows")
    for task in settings["tasks"]:
        tokenised_task(task, settings, tokenizer).save_to_disk(work / "tasks" / task["name"])


def packed_rows(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> DatasetDict:
    """Returns rows of the first token, text and the last token, all of one length; the last rows are held out."""
    length = settings["sequence_length"]

    def tokenise(batch: Mapping[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"input_ids": tokenizer(batch["text"], add_special_tokens=False)["input_ids"]}

    def pack(batch: Mapping[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        ids = list(chain.from_iterable((*document, tokenizer.sep_token_id) for document in batch["input_ids"]))
        starts = range(0, len(ids) - (length - 2) + 1, length - 2)
        rows = [[tokenizer.cls_token_id, *ids[at : at + length - 2], tokenizer.sep_token_id] for at in starts]
        return {"input_ids": rows, "attention_mask": [[1] * length] * len(rows)}

    text = load_dataset("json", data_files=settings["corpus"], split="train")
    documents = text.map(tokenise, batched=True, remove_columns=text.column_names)
    rows = documents.map(pack, batched=True, batch_size=DOCUMENTS_AT_ONCE, remove_columns=documents.column_names)
    num_train, num_held_out = settings["num_steps"] * settings["batch_size"], settings["num_held_out_rows"]
    if len(rows) < num_train + num_held_out:
        raise SystemExit(f"the text must fill {num_train + num_held_out} rows, got {len(rows)}")
    held_out = rows.select(range(num_train, num_train + num_held_out))
    return DatasetDict(train=rows.select(range(num_train)), held_out=held_out)


def tokenised_task(task: Settings, settings: Settings, tokenizer: PreTrainedTokenizerBase) -> DatasetDict:
    """Returns a task's splits without padding, with the length of each example, by which batches are made."""
    files = {split: f"{task['folder']}/{split}.parquet" for split in ("train", "validation")}
    splits = load_dataset("parquet", data_files=files)

    def tokenise(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        texts = [batch[column] for column in task["text_columns"]]
        encoded = tokenizer(*texts, truncation=True, max_length=settings["max_length"], return_length=True)
        return {**encoded, "labels": batch["label"]}

    return splits.map(tokenise, batched=True, remove_columns=splits["train"].column_names)


def trial(config: Mapping[str, Any], settings: Settings) -> None:
    """Distils and fine-tunes one student, and reports its figures."""
    torch.set_num_threads(settings["num_threads"])
    size, work = config["student"], Path(settings["work"])
    label = f"{size['num_layers']}x{size['hidden_size']}"
    student = work / "students" / label
    figures = {"student": label, "tasks": {}, **distil(size, settings, student)}
    for task in settings["tasks"]:
        figures["tasks"][task["name"]] = finetune(task, settings, student)
    tune.report({"figures": figures})


class MPNetAttentionExtractor(AttentionExtractor):
    """Finds what the loss compares in an MPNet, which bertdistiller does not know."""

    def get_attention_module(self, model: PreTrainedModel, layer_idx: int) -> nn.Module:
        """Returns the attention of a layer."""
        return model.encoder.layer[layer_idx].attention.attn

    def get_qkv_projections(self, attention_module: Any) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Returns its projections."""
        return attention_module.q, attention_module.k, attention_module.v


class RelationTrainer(MiniLMTrainer):
    """bertdistiller's trainer, for BERT and MPNet as sentence encoders have them."""

    def _get_attention_extractor(self) -> AttentionExtractor:
        # The original accepts only a BERT whose configuration names the architecture for masked words.
        is_mpnet = self.teacher.config.model_type == "mpnet"
        return MPNetAttentionExtractor() if is_mpnet else BertAttentionExtractor()


def distil(size: Mapping[str, int], settings: Settings, folder: Path) -> dict[str, Any]:
    """Distils a student from random weights, and saves it."""
    started = time.monotonic()
    set_seed(settings["seed"])
    rows = load_from_disk(Path(settings["work"]) / "rows")
    teacher = AutoModel.from_pretrained(settings["teacher"])
    arguments = MiniLMTrainingArguments(
        teacher_layer=teacher.config.num_hidden_layers,
        student_layer=size["num_layers"],
        student_hidden_size=size["hidden_size"],
        student_attention_heads=size["num_heads"],
        num_relation_heads=settings["relation_heads"],
        max_steps=settings["num_steps"],
        per_device_train_batch_size=settings["batch_size"],
        per_device_eval_batch_size=settings["batch_size"],
        learning_rate=settings["distillation_learning_rate"],
        warmup_steps=settings["distillation_warmup_fraction"],
        **shared_arguments(settings, folder / "distillation"),
    )
    student = create_student(settings["teacher"], arguments)
    trainer = RelationTrainer(
        model=student,
        args=arguments,
        teacher_model=teacher,
        train_dataset=rows["train"],
        eval_dataset=rows["held_out"],
        data_collator=default_data_collator,
    )
    trainer.train()
    held_out_loss = trainer.evaluate()["eval_loss"]
    student.save_pretrained(folder)
    return {
        "num_parameters": student.num_parameters(),
        "distillation_tokens": int(trainer.state.num_input_tokens_seen),
        "held_out_loss": held_out_loss,
        "distillation_seconds": time.monotonic() - started,
    }


def finetune(task: Settings, settings: Settings, student: Path) -> dict[str, Any]:
    """Fine-tunes a student on a task, evaluates it and saves it."""
    started = time.monotonic()
    set_seed(settings["seed"])
    splits = load_from_disk(Path(settings["work"]) / "tasks" / task["name"])
    tokenizer = AutoTokenizer.from_pretrained(settings["teacher"])
    folder = student / "finetuned" / task["name"]
    arguments = TrainingArguments(
        num_train_epochs=settings["num_epochs"],
        per_device_train_batch_size=settings["finetuning_batch_size"],
        per_device_eval_batch_size=EVALUATION_BATCH_SIZE,
        learning_rate=settings["finetuning_learning_rate"],
        warmup_steps=settings["finetuning_warmup_fraction"],
        train_sampling_strategy="group_by_length",
        **shared_arguments(settings, folder),
    )
    trainer = Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(student, num_labels=task["num_labels"]),
        args=arguments,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=accuracy,
    )
    trainer.train()
    trained = time.monotonic()
    trainer.save_model(folder)
    scores = trainer.evaluate()
    return {
        "accuracy": scores["eval_accuracy"],
        "finetuning_tokens": int(trainer.state.num_input_tokens_seen),
        "evaluation_tokens": num_tokens(splits["validation"]),
        "finetuning_seconds": trained - started,
        "evaluation_seconds": time.monotonic() - trained,
    }


def shared_arguments(settings: Settings, folder: Path) -> dict[str, Any]:
    """Returns the arguments that distillation and fine-tuning have in common."""
    return {
        "output_dir": str(folder),
        "seed": settings["seed"],
        "bf16": settings["is_bf16"],
        "lr_scheduler_type": "linear",
        "optim": "adamw_torch_fused",
        "weight_decay": settings["weight_decay"],
        "max_grad_norm": settings["max_gradient_norm"],
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 50,
        "dataloader_pin_memory": False,
        "include_num_input_tokens_seen": "non_padding",
    }


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Returns the share of examples whose class is the most likely one."""
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


def num_tokens(split: Dataset) -> int:
    """Returns the tokens of a split without padding."""
    return int(np.sum(split["length"]))


if __name__ == "__main__":
    main()
