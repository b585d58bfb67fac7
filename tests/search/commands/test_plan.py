"""Tests of the plan: its figures, and that an unknown figure is None."""

import json
from dataclasses import replace

import numpy as np
import pytest

from minilm_core.latency.measurements import Measurement, Width
from minilm_core.latency.table import Contention, LatencyTable
from minilm_core.latency.target import DeviceFingerprint
from minilm_core.models.assistant import Assistant
from minilm_core.models.families import family_shape
from minilm_core.models.vocabulary.cut import CutVocabulary
from minilm_core.results.layout import StudyPaths
from minilm_core.results.objectives import LATENCY
from search.cli.plan_rows import plan_rows
from search.commands.plan import PlannedFiles, PlannedShapes, Span, make_plan
from search.config.loading import load_config
from search.config.settings import Kept
from search.study.resolved import resolve_study
from spaces.limits import Limits
from tests.paths import QUICKSTART_YAML
from tests.search.teachers import TEACHER_JSON

PINNED = (
    "space={num_layers: [1, 2, 3, 4], hidden_sizes: [96, 192, 288, 384], head_sizes: [16, 32],"
    " distillation_learning_rate: {low: 3e-4, high: 3e-3}, finetuning_learning_rate: {low: 5e-5, high: 5e-4}}",
    "limits.max_size_bytes=75MB",
    "budget.num_trials=12",
    "corpus.max_tokens=null",
)
"""The settings that the figures below depend on, so that the template may change."""


@pytest.fixture
def loaded():
    return load_config(QUICKSTART_YAML, PINNED)


def with_config(loaded, **changes):
    return replace(loaded, config=replace(loaded.config, **changes))


def plan_of(loaded, table=None, num_corpus_tokens=None):
    """Plans a search whose teacher is on this machine."""
    study = resolve_study(loaded.config, StudyPaths(root=loaded.config.study_folder), TEACHER_JSON)
    return make_plan(
        loaded, replace(study, latency_tables={} if table is None else {LATENCY: table}), num_corpus_tokens
    )


def test_the_plan_counts_shapes_and_those_over_a_limit(loaded):
    plan = plan_of(loaded)
    assert (plan.shapes.num_shapes, plan.shapes.num_shapes_feasible, plan.shapes.num_shapes_refused) == (32, 30, 2)
    assert plan.to_dict()["num_shapes_feasible"] == 30
    assert dict(plan_rows(plan))["student shapes"] == "30 of 32 are within the limits"


def test_ranges_are_those_of_the_smallest_and_largest_admitted_shape(loaded):
    loaded = with_config(loaded, limits=Limits())
    plan = plan_of(loaded)
    architectures = sorted(loaded.config.space.architectures(), key=lambda a: (a.num_layers, a.hidden_size))
    smallest, largest = architectures[0], architectures[-1]
    assert (plan.shapes.flops.low, plan.shapes.flops.high) == (smallest.flops(128), largest.flops(128))
    assert plan.shapes.size_bytes.high == 4 * plan.shapes.num_parameters.high


def test_without_a_teacher_sizes_are_unknown(loaded):
    plan = make_plan(loaded, None)
    assert plan.shapes == PlannedShapes(
        num_shapes=32,
        num_shapes_feasible=None,
        num_shapes_refused=None,
        unknown_because="limits need the teacher's config.json, which was not found",
        num_parameters=None,
        size_bytes=None,
        int8_size_bytes=None,
        flops=None,
        latency_ms=None,
        latencies_ms={},
    )
    assert plan.files == PlannedFiles(
        targets_bytes=None, students_bytes=None, checkpoints_bytes=None, stable_states_bytes=Span(low=0, high=0)
    )


def test_a_latency_limit_without_a_table_leaves_the_refused_unknown(loaded):
    plan = plan_of(with_config(loaded, limits=Limits(max_latency_ms=5.0)))
    assert (plan.shapes.num_shapes_feasible, plan.shapes.num_shapes_refused) == (None, None)
    assert plan.shapes.size_bytes is None
    assert "limits on latency need a latency table" in plan.to_dict()["unknown_because"]
    assert dict(plan_rows(plan))["student shapes"].startswith("32, an unknown number within the limits: limits on lat")


def test_limits_that_admit_no_shape_leave_no_range(loaded):
    plan = plan_of(with_config(loaded, limits=Limits(max_parameters=1)))
    assert (plan.shapes.num_shapes_feasible, plan.shapes.num_shapes_refused) == (0, 32)
    assert plan.shapes.size_bytes is None
    assert dict(plan_rows(plan))["student shapes"] == "0 of 32 are within the limits"


def test_tokens_and_storage_follow_from_the_settings(loaded):
    corpus = replace(loaded.config.corpus, max_tokens=100_000)
    loaded = with_config(loaded, corpus=corpus)
    plan = plan_of(loaded)
    schedule = loaded.config.distillation
    assert plan.text.tokens_per_trial == schedule.num_steps * schedule.batch_size * 128
    assert plan.files.targets_bytes == 2 * 384 * 100_000
    assert plan.text.epochs_per_trial == plan.text.tokens_per_trial / 100_000
    assert plan.files.students_bytes.high == 12 * 2 * plan.shapes.size_bytes.high
    assert plan.files.checkpoints_bytes == 2 * 3 * plan.shapes.size_bytes.high


def test_a_search_that_keeps_the_front_keeps_one_student_at_least(loaded):
    every, front = (plan_of(with_config(loaded, storage=replace(loaded.config.storage, keep=keep))) for keep in Kept)
    assert front.files.students_bytes.low == every.files.students_bytes.low / 12
    assert front.files.students_bytes.high == every.files.students_bytes.high


def test_an_assistant_is_planned_with_the_shapes_that_it_teaches(loaded):
    alone = plan_of(loaded)
    assert alone.assistant is None
    assisted = plan_of(with_config(loaded, assistant=Assistant()))
    assert assisted.assistant.label == "6x192 A12"
    # Shapes of one to three layers and width 96 or 192, with heads of two sizes.
    assert assisted.assistant.num_shapes == 3 * 2 * 2
    assert make_plan(with_config(loaded, assistant=Assistant()), None).assistant is None


def test_a_packed_corpus_counts_more_than_its_limit(loaded):
    corpus = replace(loaded.config.corpus, max_tokens=100_000)
    plan = plan_of(with_config(loaded, corpus=corpus), num_corpus_tokens=50_000)
    assert plan.files.targets_bytes == 2 * 384 * 50_000
    assert (plan.text.num_corpus_tokens, plan.text.max_corpus_tokens) == (50_000, 100_000)


def test_a_corpus_of_unknown_length_is_not_guessed(loaded):
    plan = plan_of(loaded)
    assert (plan.text.num_corpus_tokens, plan.files.targets_bytes, plan.text.epochs_per_trial) == (None, None, None)


def make_table(config, widths):
    """Returns a calibration in which a layer takes as many milliseconds as the hidden size has hundreds."""

    def measured(width, num_layers):
        latency_ms = 1 + num_layers * width.hidden_size / 100
        return Measurement(
            architecture=width.with_layers(num_layers), latency_ms=latency_ms, round_medians_ms=(latency_ms,) * 5
        )

    return LatencyTable(
        target=config.latency,
        fingerprint=DeviceFingerprint(processor="example", isa=(), torch="2", python="3"),
        measured_at="2026-01-01T00:00:00+00:00",
        contention=Contention(num_cores=2, busy_cores=0.0),
        fitted=tuple(measured(width, depth) for width in widths for depth in (1, 4)),
        held_out=(measured(widths[0], 2),),
    )


def test_latencies_are_predicted_and_limited_with_a_table(loaded):
    widths = sorted({Width.of(a) for a in loaded.config.space.architectures()}, key=str)
    table = make_table(loaded.config, widths)
    plan = plan_of(with_config(loaded, limits=Limits(max_latency_ms=10.0)), table)
    assert (plan.shapes.latency_ms.low, plan.shapes.latency_ms.high) == pytest.approx((1.96, 9.64))
    assert plan.shapes.num_shapes_refused == 6


def test_a_table_that_lacks_a_width_predicts_nothing(loaded):
    widths = sorted({Width.of(a) for a in loaded.config.space.architectures()}, key=str)
    assert plan_of(loaded, make_table(loaded.config, widths[1:])).shapes.latency_ms is None


def test_a_plan_is_one_flat_mapping_of_plain_json(loaded):
    plan = plan_of(with_config(loaded, assistant=Assistant()))
    content = json.loads(json.dumps(plan.to_dict()))
    assert content["size_bytes"] == {"low": plan.shapes.size_bytes.low, "high": plan.shapes.size_bytes.high}
    assert (content["latency_ms"], content["num_trials"], content["assistant"]) == (None, 12, "6x192 A12")
    assert content["num_shapes_assisted"] == 12
    assert content.keys() == make_plan(loaded, None).to_dict().keys()


def test_the_states_that_students_go_on_from_are_counted_only_where_they_are_kept(loaded):
    assert plan_of(loaded).files.stable_states_bytes.high == 0
    wsd = replace(loaded.config.distillation, schedule="wsd")
    plan = plan_of(with_config(loaded, distillation=wsd))
    assert plan.files.stable_states_bytes.low == 12 * 3 * plan.shapes.size_bytes.low
    assert plan.files.stable_states_bytes.high == 12 * 3 * plan.shapes.size_bytes.high
    unwanted = replace(wsd, keep_stable_state=False)
    assert plan_of(with_config(loaded, distillation=unwanted)).files.stable_states_bytes.high == 0
    assert make_plan(with_config(loaded, distillation=wsd), None).files.stable_states_bytes is None


@pytest.mark.parametrize(("vocabulary", "size"), [("corpus", 30522), ("4k", 4000), ("99k", 30522)])
def test_sizes_are_upper_bounds_before_the_vocabulary_is_cut(vocabulary, size):
    loaded = load_config(QUICKSTART_YAML, [*PINNED, f"vocabulary={vocabulary}", "limits={max_parameters: 3M}"])
    plan = plan_of(loaded)
    assert (plan.vocabulary.size, plan.vocabulary.num_full, plan.vocabulary.is_known) == (size, 30522, False)
    family = replace(family_shape(TEACHER_JSON), vocabulary_size=size)
    every = [shape.num_parameters(family) for shape in loaded.config.space.architectures()]
    # A shape that is refused with so many tokens may be within the limits with fewer.
    assert (plan.shapes.num_parameters.low, plan.shapes.num_parameters.high) == (min(every), max(every))
    assert plan.shapes.num_shapes_refused == sum(figure > 3e6 for figure in every)
    assert (plan.to_dict()["vocabulary_size"], plan.to_dict()["is_vocabulary_known"]) == (size, False)
    shown = dict(plan_rows(plan))
    assert shown["vocabulary"] == f"at most {size:,} of 30,522 tokens"
    assert shown["parameters"].startswith("at most ")


def test_a_full_vocabulary_is_not_mentioned(loaded):
    plan = plan_of(loaded)
    assert plan.vocabulary is None
    assert plan.to_dict()["vocabulary_size"] is None
    assert "vocabulary" not in dict(plan_rows(plan))


def test_sizes_are_exact_once_the_vocabulary_is_cut(tmp_path):
    loaded = load_config(QUICKSTART_YAML, [*PINNED, "vocabulary=4k", f"storage.path={tmp_path}"])
    folder = StudyPaths(root=loaded.config.study_folder).vocabulary
    folder.mkdir(parents=True)
    CutVocabulary(kept=np.arange(3000), num_full=30522, unknown=100, limit=4000, coverage=1.0).save(folder)
    plan = plan_of(loaded)
    assert (plan.vocabulary.size, plan.vocabulary.is_known) == (3000, True)
    assert dict(plan_rows(plan))["vocabulary"] == "3,000 of 30,522 tokens"
