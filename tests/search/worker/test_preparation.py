"""Tests of the preparation of a study: its corpus, targets, assistant, labels and account of seconds."""

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

from minilm_core.corpus.packed import PackedCorpus
from minilm_core.corpus.packing import Packing
from minilm_core.distillation.data import DistillationData
from minilm_core.distillation.target_storage import TargetsManifest, is_cached, make_room
from minilm_core.distillation.targets import OnlineTargets
from minilm_core.errors import NonFiniteLossError, UserError
from minilm_core.models.adapters import LayerRelations
from minilm_core.models.encoders import RelationEncoder, load_encoder
from minilm_core.settings.schedules import Precision, Relation
from minilm_core.tasks.splits import load_splits
from search.config.teacher_assignment import TeacherRole
from search.study.messages import CachingBegun
from search.study.progress import Progress
from search.study.resolved import ResolvedStudy
from search.worker import assistant, preparation
from search.worker.assistant import assistant_schedule
from search.worker.node import NodeContext
from search.worker.preparation import (
    CacheShard,
    cache_shard,
    open_distillation_data,
    prepare,
    read_preparation,
    targets_held,
)

OpenStudy = Callable[..., ResolvedStudy]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")} if folder.exists() else set()


# The teacher of the tests has two layers of width 24.
ASSISTED = (
    "assistant={hidden_size: 12, num_heads: 2, num_steps: 4, learning_rate: 1.0e-3}",
    "space.num_layers=[1]",
    "space.hidden_sizes=[12]",
    "space.head_sizes=[4]",
)


def targets_of(study: ResolvedStudy, teacher_role: TeacherRole = TeacherRole.TEACHER) -> Path:
    folder = read_preparation(study.paths).targets[teacher_role]
    assert folder is not None
    return Path(folder)


def steps_of(study: ResolvedStudy) -> Generator[Progress]:
    """Yields the progress of a preparation by one process."""
    with closing(prepare(study, 1)) as events:
        yield from (event for event in events if isinstance(event, Progress))


def distillation_data_of(study: ResolvedStudy, *, rank: int = 0, world_size: int = 1) -> DistillationData:
    key = study.teachers.key(next(study.space.architectures()))
    return open_distillation_data(NodeContext.open(study), key, rank=rank, world_size=world_size)


def check_alike(ours: list[LayerRelations], theirs: list[LayerRelations], rtol: float = 2**-6) -> None:
    """Asserts that all operands of all layers are equal up to the rounding of the cached states."""
    for of_layer, expected in zip(ours, theirs, strict=True):
        assert of_layer.keys() == expected.keys()
        for relation, operands in of_layer.items():
            for part, other in zip(operands[:2], expected[relation][:2], strict=True):
                torch.testing.assert_close(part, other, rtol=rtol, atol=rtol * other.abs().max().item())


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


def test_an_assistant_is_distilled_once_and_teaches_the_small_students(open_study: OpenStudy) -> None:
    study = open_study(*ASSISTED, is_prepared=False)
    stages = list(dict.fromkeys(step.stage for step in steps_of(study)))
    assert stages[-2:] == ["teaching the assistant", "caching the assistant's targets"]
    assert {"teaching the assistant", "caching the assistant's targets"} <= set(read_preparation(study.paths).seconds)
    assert list(steps_of(study)) == []
    encoder = load_encoder(study.paths.assistant.student)
    assert (encoder.config.num_hidden_layers, encoder.config.hidden_size) == (2, 12)
    distillation_data = distillation_data_of(study)
    rows = np.array([2, 0, 5])
    input_ids = torch.from_numpy(distillation_data.corpus.rows(rows))
    relations = tuple(study.config.distillation.weights)
    online = OnlineTargets(RelationEncoder(encoder, (2,), relations), Precision.FP32)
    check_alike(distillation_data.targets.relations(rows, input_ids), online.relations(rows, input_ids))


def test_students_of_an_assistant_are_evaluated_with_the_teachers_targets(open_study: OpenStudy) -> None:
    plain, assisted = distillation_data_of(open_study()), distillation_data_of(open_study(*ASSISTED))
    rows = plain.corpus.held_out_rows[:2]
    input_ids = torch.from_numpy(plain.corpus.rows(rows))
    check_alike(
        assisted.for_evaluation.targets.relations(rows, input_ids), plain.targets.relations(rows, input_ids), rtol=0.0
    )
    assert assisted.targets.hidden_size == 12


def test_an_interrupted_assistant_is_resumed_from_its_checkpoint(open_study: OpenStudy) -> None:
    settings = (*ASSISTED, "distillation.checkpoint_every_seconds=0")
    whole, cut = open_study(*settings), open_study(*settings, "name=cut", is_prepared=False)
    steps = steps_of(cut)
    while next(steps).stage != "teaching the assistant":
        pass
    next(steps)
    assert isinstance(steps, Generator)
    steps.close()
    assert list(cut.paths.assistant.checkpoint.iterdir()) != []
    for _ in steps_of(cut):
        pass
    weights = [load_file(study.paths.assistant.student / "model.safetensors") for study in (whole, cut)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_time_of_an_interrupted_assistant_is_counted(open_study: OpenStudy) -> None:
    study = open_study(*ASSISTED, is_prepared=False)
    steps = steps_of(study)
    while next(steps).stage != "teaching the assistant":
        pass
    assert isinstance(steps, Generator)
    steps.close()
    before = read_preparation(study.paths).seconds["teaching the assistant"]
    list(steps_of(study))
    assert 0 < before < read_preparation(study.paths).seconds["teaching the assistant"]


def test_the_micro_batch_of_an_assistant_is_that_of_a_worker_of_its_students(open_study: OpenStudy) -> None:
    config = open_study(*ASSISTED, "resources.workers_per_trial=2", is_prepared=False).config
    assert config.assistant is not None
    schedule = assistant_schedule(config, config.assistant)
    assert (schedule.num_steps, schedule.batch_size, schedule.micro_batch_size) == (4, 4, 2)


def test_an_assistant_whose_loss_is_not_finite_names_its_learning_rate(
    open_study: OpenStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(*ASSISTED, is_prepared=False)

    def diverging(*arguments: object, **settings: object) -> Generator[object]:
        raise NonFiniteLossError("the loss and the gradient must be finite, got loss nan in step 3")
        yield

    monkeypatch.setattr(assistant, "distil", diverging)
    with pytest.raises(UserError, match=r"assistant\.learning_rate must keep .* finite, got 0\.001 \(.* step 3\)"):
        list(steps_of(study))


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
