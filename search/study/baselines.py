"""The baselines that a study still lacks: the jobs that follow from its settings and its records. No torch, no Ray."""

from collections.abc import Iterable, Iterator, Sequence

from minilm_core.models.initialisation import Initialisation
from minilm_core.results.records import Role, Status, TrialRecord, most_accurate_first
from minilm_core.tasks.kinds.registry import kind_of
from search.study.jobs import Job
from search.study.ledger import Ledger
from search.study.resolved import ResolvedStudy
from spaces.space import StudentChoice


def teacher_job(study: ResolvedStudy, ledger: Ledger) -> Job | None:
    """Returns the job of fine-tuning the teacher, or None if it is not wanted, or is done already."""
    job = Job.of_teacher(study)
    return job if study.config.baselines.teacher and not _is_done(job, ledger.records) else None


def jobs_after_search(study: ResolvedStudy, ledger: Ledger) -> list[Job]:
    """Returns the jobs of the baselines that follow from the best student, without those not wanted or done already.

    There is no truncated teacher if the best student has as many layers as the teacher: then there is nothing to cut.
    """
    students = [record for record in ledger.records if record.is_complete_student]
    if not students:
        return []
    best = most_accurate_first(students, study.config.declared_objectives)[0]
    jobs: list[Job] = []
    if study.config.baselines.twin:
        twin, *ablated = _twins(study, best)
        jobs += [twin, *(ablated if study.config.baselines.ablations else ())]
    if study.config.baselines.truncated_teacher and best.architecture.num_layers < study.teacher.num_layers:
        jobs.append(Job.of_truncated_teacher(study, best.number, best.architecture.num_layers))
    return [job for job in jobs if not _is_done(job, ledger.records)]


def ablation_jobs(study: ResolvedStudy, records: Sequence[TrialRecord], numbers: Iterable[int]) -> list[Job]:
    """Returns the jobs of all twins of some complete students, without those that the search has trained."""
    students = {record.number: record for record in records if record.is_complete_student}
    jobs = [job for number in numbers for job in _twins(study, students[number])]
    return [job for job in jobs if not _is_done(job, records)]


def _twins(study: ResolvedStudy, student: TrialRecord) -> Iterator[Job]:
    """Yields the twin, and those that also lack soft labels or the teacher's weights, where the student has them."""
    twin = Job.of_twin(study, student.number, StudentChoice.from_record(student))
    yield twin
    # What kinds without labels learn are no soft labels: their twins learn it in any case.
    has_labels = any(not kind_of(task).learns_without_labels for task in study.config.tasks)
    if twin.finetuning.soft_labels is not None and has_labels:
        yield twin.without_soft_labels()
    if twin.choice.initialisation is not Initialisation.RANDOM:
        yield twin.from_random_weights()


def _is_done(job: Job, records: Sequence[TrialRecord]) -> bool:
    complete = [r for r in records if r.role is job.role and r.status is Status.COMPLETE]
    if job.role is Role.TRUNCATED_TEACHER:
        # It follows from its number of layers alone: that of another student of as many layers is the same model.
        return any(record.architecture == job.choice.architecture for record in complete)
    return any(record.number == job.number for record in complete)
