"""Tests of the latency tables that a study needs, and of their files in the cache."""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from minilm_core.errors import UserError
from minilm_core.latency.measurements import Statistic
from minilm_core.latency.table import LatencyTable
from minilm_core.latency.target import CannotTimeHereError, LatencyTarget
from minilm_core.models.families import encoder_architecture, kind_of_calls
from minilm_core.results.layout import StudyPaths
from minilm_core.results.objectives import LATENCY
from search.cli.calibrating import calibrate
from search.commands import calibrate as calibrate_module
from search.commands.calibrate import calibrate_study
from search.config.loading import load_config
from search.config.settings import SearchConfig
from search.driver.calibration import TimedEncoders, encoders_to_time, known_tables, with_latency_tables
from search.study.resolved import ResolvedStudy, resolve_study
from tests.minilm_core.encoder_families import write_teacher
from tests.paths import QUICKSTART_YAML
from tests.search.latency_tables import table_of
from tests.search.running import RecordingDisplay

SIZES = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12}
BERT = {"model_type": "bert", "vocab_size": 99, "max_position_embeddings": 512, "type_vocab_size": 2, **SIZES}
MPNET = {**BERT, "model_type": "mpnet", "relative_attention_num_buckets": 32}
QUICK = (
    "space={num_layers: [1, 2], hidden_sizes: [8], head_sizes: [4],"
    " distillation_learning_rate: [1e-3], finetuning_learning_rate: [1e-3]}",
    "latency.sequence_length=16",
    "distillation.relation_heads=4",
    "corpus.sequence_length=16",
    "finetuning.max_length=16",
)


BERT_STUDENTS = (
    "student_family=bert",
    "space={num_layers: [1, 2], hidden_sizes: [96], head_sizes: [32],"
    " distillation_learning_rate: [1e-3], finetuning_learning_rate: [1e-3]}",
)
"""Students of the family BERT. They begin with random weights, since their teacher is of another family."""


def encoders_of(config: SearchConfig, teacher_json: Mapping[str, Any]) -> tuple[TimedEncoders, ...]:
    return encoders_to_time(resolve_study(config, StudyPaths(root=config.study_folder), teacher_json))


def target_of(config: SearchConfig) -> LatencyTarget:
    """Returns the only target of a search."""
    (latency,) = config.latencies.values()
    return latency.target


def config_with(*overrides: str) -> SearchConfig:
    return load_config(QUICKSTART_YAML, overrides).config


def test_a_teacher_of_its_students_family_is_timed_among_them():
    (together,) = encoders_of(config_with(), MPNET)
    assert together.base is MPNET
    assert together.architectures[-1] == encoder_architecture(MPNET)
    assert len(together.architectures) == config_with().space.num_shapes + 1


def test_a_teacher_of_another_family_is_timed_in_its_own_family():
    students, teacher = encoders_of(config_with(*BERT_STUDENTS), MPNET)
    assert (students.base["model_type"], teacher.base["model_type"]) == ("bert", "mpnet")
    assert teacher.architectures == (encoder_architecture(MPNET),)
    assert encoder_architecture(MPNET) not in students.architectures


def test_encoders_whose_calls_do_not_cost_the_same_have_tables_of_their_own():
    config = config_with()
    files = {
        name: encoders_of(config, teacher)[0].file(config, target_of(config))
        for name, teacher in {
            "bert": BERT,
            "mpnet": MPNET,
            "larger vocabulary": {**BERT, "vocab_size": 30522, "max_position_embeddings": 1024},
            "other activation": {**BERT, "hidden_act": "relu"},
            "roberta": {**BERT, "model_type": "roberta", "pad_token_id": 1},
        }.items()
    }
    assert files["bert"] == files["larger vocabulary"]
    assert len(set(files.values())) == 4


def test_bert_students_share_the_table_of_a_study_of_bert_with_their_activation():
    config = config_with(*BERT_STUDENTS)
    (students, _), (of_bert,) = encoders_of(config, MPNET), encoders_of(config, BERT)
    assert students.file(config, target_of(config)) == of_bert.file(config, target_of(config))


def test_a_table_is_found_for_encoders_whose_widths_it_has(tmp_path):
    config = config_with(f"storage.cache={tmp_path}")
    (together,) = encoders_of(config, BERT)
    assert together.find(config, target_of(config)) is None
    table = table_of(*together.architectures, ms_per_layer=1.0)
    table.save(together.file(config, target_of(config)))
    assert together.find(config, target_of(config)) == table
    (others,) = encoders_of(config_with(*QUICK), BERT)
    assert others.find(config, target_of(config)) is None


def test_a_table_of_fastest_rounds_is_not_used(tmp_path):
    config = config_with(f"storage.cache={tmp_path}")
    (together,) = encoders_of(config, BERT)
    table = table_of(*together.architectures, ms_per_layer=1.0)
    replace(table, statistic=Statistic.FASTEST_ROUND).save(together.file(config, target_of(config)))
    assert together.find(config, target_of(config)) is None
    table.save(together.file(config, target_of(config)))
    assert together.find(config, target_of(config)) == table


def study_with_table(table: LatencyTable, file: Path, teacher_json: Mapping[str, Any] = BERT) -> ResolvedStudy:
    """Returns a study whose settings name a table."""
    table.save(file)
    config = config_with(f"latency={{table: {file}}}", f"storage.cache={file.parent}")
    return resolve_study(config, StudyPaths(root=config.study_folder), teacher_json)


def test_a_named_table_predicts_for_the_students_and_nothing_is_measured(tmp_path: Path):
    students = tuple(config_with().space.architectures())
    table = replace(table_of(*students, ms_per_layer=2.0), kind=kind_of_calls(BERT))
    study = known_tables(study_with_table(table, tmp_path / "server.json"))
    assert study.latencies_ms(students[0]) == {LATENCY: pytest.approx(2.0 * students[0].num_layers)}
    assert study.teacher_latencies_ms(study.teacher) == {}
    with_teacher = replace(table_of(*students, study.teacher, ms_per_layer=2.0), kind=kind_of_calls(BERT))
    study = known_tables(study_with_table(with_teacher, tmp_path / "both.json"))
    assert study.teacher_latencies_ms(study.teacher) == {LATENCY: pytest.approx(2.0 * study.teacher.num_layers)}


def test_a_named_table_that_lacks_a_width_or_is_of_another_kind_is_refused(tmp_path: Path):
    students = tuple(config_with().space.architectures())
    narrow = replace(table_of(students[0], ms_per_layer=1.0), kind=kind_of_calls(BERT))
    with pytest.raises(UserError, match="a latency table must have every width of the space"):
        known_tables(study_with_table(narrow, tmp_path / "narrow.json"))
    of_bert = replace(table_of(*students, ms_per_layer=1.0), kind=kind_of_calls(BERT))
    with pytest.raises(
        UserError, match="must be of the students' kind of encoder, whose model_type is mpnet, got bert"
    ):
        known_tables(study_with_table(of_bert, tmp_path / "bert.json", MPNET))
    fastest = replace(of_bert, statistic=Statistic.FASTEST_ROUND)
    with pytest.raises(UserError, match=r"latency.table must predict medians, got fastest round in .*fastest.json"):
        known_tables(study_with_table(fastest, tmp_path / "fastest.json"))


def test_a_named_table_of_the_students_says_nothing_of_a_teacher_of_another_family(tmp_path: Path):
    config = config_with(*BERT_STUDENTS)
    teacher = encoder_architecture(MPNET)
    table = table_of(*config.space.architectures(), teacher, ms_per_layer=2.0)
    replace(table, kind=kind_of_calls(BERT)).save(tmp_path / "server.json")
    config = config_with(*BERT_STUDENTS, f"latency={{table: {tmp_path / 'server.json'}}}")
    study = known_tables(resolve_study(config, StudyPaths(root=config.study_folder), MPNET))
    assert study.latencies_ms(teacher) == {LATENCY: pytest.approx(2.0 * teacher.num_layers)}
    assert study.teacher_latencies_ms(teacher) == {}


def test_a_study_keeps_the_table_of_each_target_and_goes_on_with_its_own(tmp_path: Path):
    students = tuple(config_with().space.architectures())
    for name, ms_per_layer in (("server", 1.0), ("phone", 4.0)):
        table = replace(table_of(*students, ms_per_layer=ms_per_layer), kind=kind_of_calls(BERT))
        table.save(tmp_path / f"{name}.json")
    targets = (
        f"latency=[{{name: server, table: {tmp_path}/server.json}}, {{name: phone, table: {tmp_path}/phone.json}}]"
    )
    config = config_with(targets, f"storage.path={tmp_path}", "objectives=[accuracy, latency_ms@phone]")
    study = resolve_study(config, StudyPaths(root=config.study_folder), BERT)
    expected = {"latency_ms": pytest.approx(1.0), "latency_ms@phone": pytest.approx(4.0)}
    one_layer = replace(students[0], num_layers=1)
    for _ in range(2):
        assert with_latency_tables(study, RecordingDisplay()).latencies_ms(one_layer) == expected
        assert sorted(path.name for path in study.paths.latency_tables()) == ["latency.json", "latency@phone.json"]
        # Where a study goes on, the files may be gone.
        for name in ("server", "phone"):
            (tmp_path / f"{name}.json").unlink(missing_ok=True)


@pytest.mark.parametrize("target", ["{device: cuda}", "{runtime: onnxruntime}"])
def test_a_target_that_cannot_be_timed_here_has_no_known_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
):
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    config = config_with(f"latency={target}", f"storage.cache={tmp_path}")
    study = resolve_study(config, StudyPaths(root=config.study_folder), BERT)
    assert known_tables(study).latency_tables == {}
    with pytest.raises(CannotTimeHereError, match=r"needs an NVIDIA GPU|needs the package onnxruntime"):
        with_latency_tables(study, RecordingDisplay())


def test_a_file_for_a_table_has_room_for_one_target_and_named_tables_are_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    search_yaml = tmp_path / "search.yaml"
    search_yaml.write_text(QUICKSTART_YAML.read_text())
    measure = partial(calibrate_study, search_yaml, is_forced=False, is_strict=False, has_one_target=True)
    with pytest.raises(UserError, match=r"^--out is for the table of one target, got 2: here, there$"):
        measure(["latency=[{name: here}, {name: there, num_threads: 2}]"])
    # One of several that cannot be timed here is left out.
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    monkeypatch.setattr(calibrate_module, "find_teacher_config", lambda _: None)
    with pytest.raises(UserError, match=r"^calibrate needs the teacher's config.json"):
        measure(["latency=[{name: here}, {name: gpu, device: cuda}]"])
    with pytest.raises(UserError, match=r"^calibrate needs a target that this machine can time, got a, b$"):
        measure(["latency=[{name: a, device: cuda}, {name: b, device: cuda, batch_size: 8}]"])
    table_of(*config_with().space.architectures(), ms_per_layer=1.0).save(tmp_path / "server.json")
    with pytest.raises(UserError, match=r"^latency.table must be left out for calibrate, which measures, got .*json$"):
        measure([f"latency=[{{name: server, table: {tmp_path}/server.json}}]"])


@pytest.mark.slow
def test_calibrate_times_students_and_a_teacher_of_another_family(tmp_path, capsys):
    write_teacher("mpnet", tmp_path / "teacher")
    search_yaml = tmp_path / "search.yaml"
    search_yaml.write_text(QUICKSTART_YAML.read_text())
    overrides = (*QUICK, "teacher={model: teacher}", f"storage.cache={tmp_path / 'cache'}", "student_family=bert")
    calibrate(search_yaml, list(overrides), as_json=True)
    tables = json.loads(capsys.readouterr().out)
    assert [row["width"]["hidden_size"] for row in tables["rows"]] == [8]
    assert [row["width"]["hidden_size"] for row in tables["teacher"]["rows"]] == [24]
    config = load_config(search_yaml, overrides).config
    teacher_json = json.loads((tmp_path / "teacher" / "config.json").read_text())
    encoders = encoders_of(config, teacher_json)
    assert {one.file(config, target_of(config)) for one in encoders} == set((tmp_path / "cache" / "latency").iterdir())
    assert None not in [one.find(config, target_of(config)) for one in encoders]
    assert [one.base["model_type"] for one in encoders] == ["bert", "mpnet"]
