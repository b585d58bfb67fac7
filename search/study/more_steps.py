"""More steps for finished students: what was asked for, and what of it is left to do. No torch, no Ray.

With schedule wsd a run of fewer steps is the beginning of a longer one. The state that a student had before its decay
is kept, so that it can go on from there, and end as if it had been trained for all the steps at once.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths
from minilm_core.results.record_lines import read_records
from minilm_core.results.records import TrialRecord
from minilm_core.settings.learning_rates import LearningRateSchedule
from search.config.settings import Kept, SearchConfig
from search.study.jobs import Job
from search.study.ledger import budget_ending
from search.study.resolved import ResolvedStudy


def check_can_go_on(config: SearchConfig) -> None:
    """Checks that the students of a study can be trained for more steps.

    Raises:
        UserError: with the reason why they cannot.
    """
    schedule = config.distillation.schedule
    if schedule is not LearningRateSchedule.WSD:
        raise UserError(
            f"--add-steps needs distillation.schedule wsd, got {schedule}, whose learning rate falls over all the "
            f"steps of a run: a longer one would have had other rates from its warm-up on, so that no state "
            f"belongs to both"
        )


def ask_for_more_steps(paths: StudyPaths, config: SearchConfig, trials: Sequence[int], num_more: int) -> bool:
    """Notes that students are to go on for more steps, before any does, and returns whether it was done.

    Nothing is noted while trials of the budget, or steps asked for before, are left: until then, a second request
    cannot be distinguished from a repetition of the first.

    Raises:
        UserError: if a student has no record or no state to go on from, or other runs depend on it as it is.
    """
    records = read_records(paths.records)
    is_searched = budget_ending(config.budget, records) is not None or paths.exhausted.exists()
    if not is_searched or steps_left(paths, records):
        return False
    students = {record.number: record for record in records if record.is_complete_student}
    if not trials:
        raise UserError("--add-steps needs at least 1 complete student, got none")
    for number in trials:
        _check_student(paths, config, number, students)
    _check_no_reruns(paths)
    _write(paths.more_steps, {number: students[number].num_steps + num_more for number in trials})
    return True


def _check_student(paths: StudyPaths, config: SearchConfig, number: int, students: Mapping[int, TrialRecord]) -> None:
    if number not in students:
        raise UserError(f"--trial must be that of a complete student, got {number}")
    schedule = config.distillation.with_num_steps(students[number].num_steps)
    if schedule.learning_rate_curve.first_decay_step and not paths.stable_states(number):
        raise UserError(
            f"a student that goes on must have the state before its decay, got no "
            f"{paths.trial_folder(number) / 'stable'}; distillation.keep_stable_state keeps it, unless storage.keep is "
            f"{Kept.FRONT} and another student beats this one"
        )


def _check_no_reruns(paths: StudyPaths) -> None:
    for plan, folder in (
        (paths.confirmation, paths.confirmations),
        (paths.finetuning_check_plan, paths.finetuning_check),
    ):
        if plan.exists():
            raise UserError(
                f"the students of a study must stay as they are while it has {plan}, which is about them; "
                f"remove it and {folder} to go on for more steps, and make it again afterwards"
            )


def steps_left(paths: StudyPaths, records: Sequence[TrialRecord]) -> dict[int, int]:
    """Returns the steps that students are still to go on to, by the number of the trial.

    Raises:
        UserError: if the file of what was asked for is damaged.
    """
    reached = {record.number: record.num_steps for record in records if record.is_complete_student}
    return {number: steps for number, steps in asked_for(paths).items() if reached.get(number, steps) < steps}


def asked_for(paths: StudyPaths) -> dict[int, int]:
    """Returns the steps that students were last asked to go on to, by the number of the trial; empty if none was.

    Raises:
        UserError: if the file is damaged.
    """
    if not paths.more_steps.exists():
        return {}
    try:
        content = json.loads(paths.more_steps.read_text(encoding="utf-8"))
        return {int(number): int(steps) for number, steps in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{paths.more_steps} must be as resume --add-steps wrote it, got {error}") from error


def jobs_going_on(study: ResolvedStudy, records: Sequence[TrialRecord]) -> list[Job]:
    """Returns the jobs of the students that are still to go on."""
    by_number = {record.number: record for record in records if record.is_complete_student}
    left = steps_left(study.paths, records)
    return [Job.of_record(study, by_number[number]).with_num_steps(steps) for number, steps in left.items()]


def _write(file: Path, steps: Mapping[int, int]) -> None:
    write_text_atomically(file, json.dumps(steps) + "\n")
