"""Tests of the preparation of a study: its corpus, targets, assistant, labels and account of seconds."""

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from minilm_core.corpus.packed import PackedCorpus
from minilm_core.corpus.packing import Packing
from minilm_core.distillation.target_storage import TargetsManifest, is_cached, make_room
from minilm_core.distillation.targets import OnlineTargets
from minilm_core.errors import UserError
from minilm_core.models.encoders import RelationEncoder, load_encoder
from minilm_core.settings.schedules import Precision, Relation
from minilm_core.tasks.splits import load_splits
from search.config.teacher_assignment import TeacherRole
from search.study.messages import CachingBegun
from search.study.progress import Progress
from search.study.resolved import ResolvedStudy
from search.worker import preparation
from search.worker.preparation import (
    CacheShard,
    cache_shard,
    prepare,
    read_preparation,
    targets_held,
)
from tests.search.worker.preparing import check_alike, distillation_data_of, steps_of, targets_of

OpenStudy = Callable[..., ResolvedStudy]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")} if folder.exists() else set()


def test_a_preparation_reports_its_stages_and_steps(open_study: OpenStudy, tmp_path: Path) -> None:
    study = open_study(f"storage.cache={tmp_path}/cache", is_prepared=False)
    progress = list(steps_of(study))
    corpus = PackedCorpus.load(Path(read_preparation(study.paths).corpus))
    assert list(dict.fromkeys(step.stage for step in progress)) == [
        "packing the corpus",
        "tokenising the tasks",
        "caching the teacher's targets",
    ]
    assert progress[-1].is_finished
    assert progress[-1].step == corpus.num_rows


def test_a_second_study_finds_what_the_first_made(open_study: OpenStudy, tmp_path: Path) -> None:
    first = open_study(f"storage.cache={tmp_path}/cache")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    second = open_study(f"storage.cache={tmp_path}/cache", is_prepared=False)
    assert list(steps_of(second)) == []
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found, again = read_preparation(first.paths), read_preparation(second.paths)
    assert (found.corpus, found.targets) == (again.corpus, again.targets)
    assert set(found.seconds) == {"packing the corpus", "tokenising the tasks", "caching the teacher's targets"}
    assert again.seconds == {}


def test_the_texts_of_a_task_are_a_source_of_the_corpus(open_study: OpenStudy) -> None:
    study = open_study("corpus.sources=[{path: corpus.jsonl}, {task: mood}]", is_prepared=False)
    list(steps_of(study))
    _, of_task = PackedCorpus.load(Path(read_preparation(study.paths).corpus)).manifest.sources
    (task,) = study.config.tasks
    assert of_task["num_documents"] == load_splits(task, Path()).train.num_examples


@pytest.mark.parametrize(
    "change",
    ["teacher.layer=1", "corpus.sequence_length=24", "corpus.max_tokens=400", "distillation.precision=bf16"],
)
def test_another_layer_packing_or_precision_has_targets_of_its_own(open_study: OpenStudy, change: str) -> None:
    plain, changed = (read_preparation(open_study(*changes).paths) for changes in ((), (change,)))
    assert plain.targets != changed.targets


@pytest.mark.parametrize("change", ["teacher.layer=2", "seed=9", "distillation.num_steps=7", "budget.num_trials=9"])
def test_settings_that_targets_do_not_depend_on_change_nothing(open_study: OpenStudy, change: str) -> None:
    plain, changed = (read_preparation(open_study(*changes).paths) for changes in ((), (change,)))
    assert (plain.corpus, plain.targets) == (changed.corpus, changed.targets)


def test_a_teacher_with_other_weights_has_targets_of_its_own(
    open_study: OpenStudy, material: Path, tmp_path: Path
) -> None:
    shutil.copytree(material / "teacher", tmp_path / "other")
    teacher = load_encoder(tmp_path / "other")
    with torch.no_grad():
        teacher.embeddings.word_embeddings.weight[5] += 1
    teacher.save_pretrained(tmp_path / "other")
    plain, changed = open_study(), open_study(f"teacher.model={tmp_path}/other")
    assert read_preparation(plain.paths).targets != read_preparation(changed.paths).targets
    assert read_preparation(plain.paths).corpus == read_preparation(changed.paths).corpus


def test_a_teacher_with_other_heads_over_the_same_weights_has_targets_of_its_own(
    open_study: OpenStudy, material: Path, tmp_path: Path
) -> None:
    shutil.copytree(material / "teacher", tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**content, "num_attention_heads": 2}), encoding="utf-8")
    plain, changed = open_study(), open_study(f"teacher.model={tmp_path}/other")
    assert read_preparation(plain.paths).targets != read_preparation(changed.paths).targets


def test_an_interrupted_preparation_records_no_targets_and_can_be_resumed(
    open_study: OpenStudy, tmp_path: Path
) -> None:
    study = open_study(f"storage.cache={tmp_path}/cache", is_prepared=False)
    steps = steps_of(study)
    while next(steps).stage != "caching the teacher's targets":
        pass
    assert isinstance(steps, Generator)
    steps.close()
    assert not any(is_cached(folder) for folder in (tmp_path / "cache" / "targets").iterdir())
    assert read_preparation(study.paths).targets == {}
    for _ in steps_of(study):
        pass
    assert is_cached(targets_of(study))


def test_cached_targets_are_the_teachers_relations(open_study: OpenStudy, material: Path) -> None:
    study = open_study("teacher.layer=1")
    distillation_data = distillation_data_of(study)
    rows = np.array([2, 0, 5])
    input_ids = torch.from_numpy(distillation_data.corpus.rows(rows))
    relations = tuple(study.config.distillation.weights)
    online = OnlineTargets(RelationEncoder(load_encoder(material / "teacher"), (1,), relations), Precision.FP32)
    check_alike(distillation_data.targets.relations(rows, input_ids), online.relations(rows, input_ids))


def test_a_teacher_whose_targets_do_not_fit_runs_online(open_study: OpenStudy, tmp_path: Path) -> None:
    cached = open_study()
    study = open_study("storage.max_cache_bytes=1kB", f"storage.cache={tmp_path}/cache")
    assert read_preparation(study.paths).targets == {TeacherRole.TEACHER: None}
    assert not (tmp_path / "cache" / "targets").exists()
    distillation_data = distillation_data_of(study)
    assert isinstance(distillation_data.targets, OnlineTargets)
    rows = np.array([2, 0, 5])
    input_ids = torch.from_numpy(distillation_data.corpus.rows(rows))
    check_alike(
        distillation_data_of(cached).targets.relations(rows, input_ids),
        distillation_data.targets.relations(rows, input_ids),
    )


def test_no_time_is_lost_if_it_is_added_in_many_parts(
    open_study: OpenStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "SECONDS_BETWEEN_ENTRIES", 0.0)
    plain = Packing.steps

    def in_many_steps(packing: Packing) -> Generator[int]:
        yield from (0, 0, 0)
        yield from plain(packing)

    monkeypatch.setattr(Packing, "steps", in_many_steps)
    study = open_study(f"storage.cache={tmp_path}/cache", is_prepared=False)
    least = Counter()
    for progress in steps_of(study):
        time.sleep(0.2)
        least[progress.stage] += 0.2
    counted = read_preparation(study.paths).seconds
    assert counted.keys() == least.keys()
    # The account of a study is written for the first time when packing ends.
    assert all(counted[stage] >= seconds for stage, seconds in least.items())


def test_targets_of_an_earlier_format_are_made_again(open_study: OpenStudy, tmp_path: Path) -> None:
    study = open_study(f"storage.cache={tmp_path}/cache")
    old = targets_of(study).rename(tmp_path / "cache" / "targets" / "of-format-2")
    manifest = old / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text(encoding="utf-8")), "format_version": 2}))
    found = read_preparation(study.paths)
    study.paths.preparation.write_text(json.dumps(asdict(replace(found, targets={TeacherRole.TEACHER: str(old)}))))
    list(steps_of(study))
    assert targets_of(study) != old
    assert is_cached(targets_of(study))


def test_a_study_finds_its_cache_after_it_was_moved(open_study: OpenStudy, tmp_path: Path) -> None:
    study = open_study(f"storage.cache={tmp_path}/cache")
    before = read_preparation(study.paths).seconds
    (tmp_path / "cache").rename(tmp_path / "moved")
    storage = replace(study.config.storage, cache=str(tmp_path / "moved"))
    assert list(steps_of(replace(study, config=replace(study.config, storage=storage)))) == []
    assert targets_of(study).is_relative_to(tmp_path / "moved")
    assert read_preparation(study.paths).seconds == before


def test_distillation_data_has_the_rank_and_the_world_size(open_study: OpenStudy) -> None:
    study = open_study()
    distillation_data = distillation_data_of(study, rank=1, world_size=2)
    assert (distillation_data.rank, distillation_data.world_size) == (1, 2)


def test_a_node_without_the_cache_makes_it_again(open_study: OpenStudy, tmp_path: Path) -> None:
    study = open_study(f"storage.cache={tmp_path}/cache")
    # Tokenised tasks are left out: this process has them in memory.
    folders = [tmp_path / "cache" / name for name in ("corpora", "targets")]
    expected = [names_in(folder) for folder in folders]
    shutil.rmtree(tmp_path / "cache")
    distillation_data = distillation_data_of(study)
    assert distillation_data.corpus.num_rows > 0
    assert [names_in(folder) for folder in folders] == expected


def test_a_node_with_another_precision_makes_and_reads_targets_of_its_own(open_study: OpenStudy) -> None:
    study = open_study()
    own = read_preparation(study.paths)
    elsewhere = replace(
        own, targets={TeacherRole.TEACHER: str(targets_of(study).with_name("targets-of-another-precision"))}
    )
    study.paths.preparation.write_text(json.dumps(asdict(elsewhere)))
    distillation_data = distillation_data_of(study)
    rows = np.array([0])
    (relations,) = distillation_data.targets.relations(rows, torch.from_numpy(distillation_data.corpus.rows(rows)))
    assert relations[Relation.VALUE].left.shape == (1, 16, 24)


def test_the_hashes_of_the_labels_of_every_split_are_written_once_a_study(
    open_study: OpenStudy, material: Path
) -> None:
    study = open_study()
    written = json.loads(study.paths.evaluation.read_text())["mood"]
    for split in ("validation", "test"):
        table = pyarrow.parquet.read_table(material / "mood" / f"{split}.parquet")
        labels = json.dumps(table["label"].to_pylist())
        assert written[split] == {"num_examples": 40, "sha256": hashlib.sha256(labels.encode()).hexdigest()}
    assert written["label_names"] is None


def test_a_limit_on_the_validation_split_cuts_the_labels_too(open_study: OpenStudy) -> None:
    task = "[{name: mood, path: mood, text_columns: [text], metric: accuracy, max_validation_examples: 7}]"
    study = open_study(f"tasks={task}")
    assert json.loads(study.paths.evaluation.read_text())["mood"]["validation"]["num_examples"] == 7


def test_labels_that_are_set_aside_are_those_of_the_test_split(open_study: OpenStudy, tmp_path: Path) -> None:
    rows = {"train": 100, "validation": 2001}
    for split, num_examples in rows.items():
        lines = [json.dumps({"text": "the film", "label": number % 2}) + "\n" for number in range(num_examples)]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    task = f"[{{name: mood, path: {tmp_path}, text_columns: [text], metric: accuracy, set_aside_fraction: 0.25}}]"
    written = json.loads(open_study(f"tasks={task}").paths.evaluation.read_text())["mood"]
    assert (written["validation"]["num_examples"], written["test"]["num_examples"]) == (1501, 500)


def test_a_teacher_of_other_weights_than_declared_is_refused(open_study: OpenStudy) -> None:
    with pytest.raises(UserError, match="sha256"):
        open_study(f"teacher.sha256={'0' * 64}")


def test_other_labels_under_a_begun_study_are_refused(open_study: OpenStudy) -> None:
    study = open_study()
    study.paths.evaluation.write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="a study's labels must not change once it has begun"):
        list(steps_of(study))


def test_another_corpus_under_a_begun_study_is_refused(open_study: OpenStudy) -> None:
    study = open_study()
    other = replace(study.config, corpus=replace(study.config.corpus, held_out_sequences=3))
    with pytest.raises(UserError, match="a study's corpus must not change once it has begun"):
        list(steps_of(replace(study, config=other)))


def test_targets_of_another_corpus_are_refused(open_study: OpenStudy) -> None:
    study = open_study()
    manifest = targets_of(study) / "manifest.json"
    original = manifest.read_text(encoding="utf-8")
    try:
        manifest.write_text(json.dumps({**json.loads(original), "corpus_fingerprint": "another"}), encoding="utf-8")
        with pytest.raises(UserError, match="cached targets must be those of the corpus that they are used with"):
            distillation_data_of(study)
    finally:
        manifest.write_text(original, encoding="utf-8")


def test_a_second_preparation_keeps_the_seconds_of_the_first(open_study: OpenStudy, tmp_path: Path) -> None:
    study = open_study(f"storage.cache={tmp_path}/cache")
    cost = read_preparation(study.paths).seconds
    list(steps_of(study))
    assert all(read_preparation(study.paths).seconds[stage] >= spent for stage, spent in cost.items())


def test_several_processes_may_cache_the_targets_of_one_study(open_study: OpenStudy, tmp_path: Path) -> None:
    study = open_study(f"storage.cache={tmp_path}/cache", is_prepared=False)
    steps = prepare(study, 1)
    while not isinstance(next(steps), CachingBegun):
        pass
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(list, cache_shard(study, TeacherRole.TEACHER, 1, CacheShard(1, 2)))
        list(steps)
    assert {event.stage for event in other.result() if isinstance(event, Progress)} <= {"caching the teacher's targets"}
    assert is_cached(targets_of(study))


def test_the_targets_of_a_running_study_are_not_evicted(open_study: OpenStudy, tmp_path: Path) -> None:
    study = open_study(f"storage.cache={tmp_path}/cache")
    targets = targets_of(study)
    other, size = targets.with_name("other"), TargetsManifest.load(targets).num_bytes
    with targets_held(study.paths), pytest.raises(UserError, match=r"storage\.max_cache_bytes"):
        make_room(other, size, limit_bytes=size)
    assert is_cached(targets)
    make_room(other, size, limit_bytes=size)
    assert not targets.exists()
