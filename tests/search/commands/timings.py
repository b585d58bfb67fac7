"""Made-up timings of a space of three shapes, whose FLOPs lie at equal distances."""

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.results.layout import StudyPaths
from search.config.loading import load_config
from search.config.teacher_assignment import TeacherRole
from search.study.resolved import ResolvedStudy, resolve_study
from search.study.timings import DistillationTimes, EncoderTimes, TaskTimes, Timings
from tests.paths import QUICKSTART_YAML
from tests.search.teachers import TEACHER_JSON

TASK = "docstrings"
SETTINGS = (
    "space={num_layers: [1, 2, 3], hidden_sizes: [96], head_sizes: [16],"
    " distillation_learning_rate: {low: 3e-4, high: 3e-3}, finetuning_learning_rate: {low: 5e-5, high: 5e-4}}",
    "corpus.max_tokens=400k",
    "distillation.num_steps=100",
    "finetuning.num_epochs=1",
    "limits={}",
    "objectives=[accuracy, size_bytes]",
    "budget={num_trials: 4}",
    "resources={max_concurrent_trials: 2}",
    "baselines={truncated_teacher: false}",
)


def study_of(*overrides: str) -> ResolvedStudy:
    config = load_config(QUICKSTART_YAML, [*SETTINGS, *overrides]).config
    return resolve_study(config, StudyPaths(root=config.study_folder), TEACHER_JSON)


def student_of(num_layers: int) -> StudentArchitecture:
    return StudentArchitecture(num_layers=num_layers, hidden_size=96, num_heads=6)


def task_times(*, epoch: float, forward: float, evaluation: float, fixed: float) -> TaskTimes:
    return TaskTimes(
        epoch_seconds=epoch,
        unlabelled_epoch_seconds=epoch / 2,
        pass_seconds=forward,
        unlabelled_pass_seconds=forward / 2,
        evaluation_seconds=evaluation,
        fixed_seconds=fixed,
    )


def timings_of(study: ResolvedStudy) -> Timings:
    """Timings of the shapes of one and of three layers; a trial of them takes 35 and 93 seconds."""

    def flops(architecture: StudentArchitecture) -> int:
        family = study.teacher_family if architecture == study.teacher else study.student_family
        return architecture.flops(study.config.corpus.sequence_length, family)

    small, large = student_of(1), student_of(3)
    return Timings(
        students=(
            EncoderTimes(
                architecture=small,
                flops=flops(small),
                tasks={TASK: task_times(epoch=10.0, forward=4.0, evaluation=2.0, fixed=1.0)},
                distillation=DistillationTimes(
                    student_seconds=0.1, targets_seconds=0.05, held_out_seconds=1.0, fixed_seconds=2.0
                ),
            ),
            EncoderTimes(
                architecture=large,
                flops=flops(large),
                tasks={TASK: task_times(epoch=30.0, forward=12.0, evaluation=6.0, fixed=3.0)},
                distillation=DistillationTimes(
                    student_seconds=0.3, targets_seconds=0.05, held_out_seconds=3.0, fixed_seconds=4.0
                ),
            ),
        ),
        teacher=EncoderTimes(
            architecture=study.teacher,
            flops=flops(study.teacher),
            tasks={TASK: task_times(epoch=100.0, forward=40.0, evaluation=20.0, fixed=5.0)},
            distillation=None,
        ),
        assistant=None,
        caching_seconds={TeacherRole.TEACHER: 1e-4},
        start_seconds=2.0,
        seconds=12.0,
        num_processes=2,
        device="an example",
        measured_at="2026-01-01T00:00:00+00:00",
    )
