"""The distillation of the teacher's assistant, once for each study and before any student."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace

from minilm_core.distillation.data import DistillationData
from minilm_core.distillation.loop import distil
from minilm_core.errors import NonFiniteLossError, UserError
from minilm_core.models.assistant import Assistant
from minilm_core.models.encoders import RelationEncoder, build_encoder, load_encoder_config, save_encoder
from minilm_core.settings.schedules import DistillationSchedule
from search.config.settings import SearchConfig
from search.config.teacher_assignment import TeacherRole
from search.study.progress import Progress
from search.worker.node import NodeContext
from search.worker.worker import CheckpointClock, is_due, stage_progress
from spaces.space import LogRange

STAGE = "teaching the assistant"


def teach_assistant(node: NodeContext, data: DistillationData) -> Iterator[Progress]:
    """Distils the assistant, from its latest checkpoint on, and saves it; does nothing where it is saved already.

    As in the paper it begins with random weights, and its own last layer is compared, unless the study maps all layers.

    Raises:
        UserError: if the learning rate makes the loss infinite or NaN.
    """
    config, paths, teachers = node.config, node.paths.assistant, node.study.teachers
    assert config.assistant is not None, "only a search with an assistant teaches one"
    if paths.student.is_dir():
        return
    architecture = teachers.architecture(TeacherRole.ASSISTANT)
    pairs = teachers.layer_pairs(architecture, TeacherRole.TEACHER)
    encoder = build_encoder(architecture, load_encoder_config(node.teacher_folder), seed=config.seed)
    student = RelationEncoder(
        encoder, pairs.student, tuple(config.distillation.weights), teacher_width=data.targets.hidden_size
    ).to(node.device)
    schedule = assistant_schedule(config, config.assistant)
    learning_rate = config.assistant.learning_rate or middle_learning_rate(config)
    checkpoints = CheckpointClock(every_seconds=schedule.checkpoint_every_seconds)
    try:
        for progress in distil(
            student, data, schedule, learning_rate=learning_rate, seed=config.seed, resume_from=paths.checkpoint
        ):
            if not progress.is_finished and checkpoints.is_due():
                progress.save_checkpoint(paths.checkpoint)
            if is_due(progress):
                yield stage_progress(STAGE, progress)
    except NonFiniteLossError as error:
        raise UserError(
            f"assistant.learning_rate must keep the assistant's loss finite, got {learning_rate:g} ({error})"
        ) from error
    save_encoder(encoder, node.teacher_folder, paths.student)
    shutil.rmtree(paths.checkpoint, ignore_errors=True)


def assistant_schedule(config: SearchConfig, assistant: Assistant) -> DistillationSchedule:
    """Returns the schedule of the assistant: that of a student, but in one process.

    Its micro-batches have as many rows as each worker of a trial would have.
    """
    schedule = config.distillation
    return replace(
        schedule,
        num_steps=assistant.num_steps or schedule.num_steps,
        micro_batch_size=schedule.micro_batch_size
        or math.ceil(schedule.batch_size / config.resources.workers_per_trial),
    )


def middle_learning_rate(config: SearchConfig) -> float:
    """Returns the geometric mean of the lowest and the highest learning rate of the space."""
    rates = config.space.distillation_learning_rate
    ends = (rates.low, rates.high) if isinstance(rates, LogRange) else (min(rates), max(rates))
    return math.sqrt(ends[0] * ends[1])
