"""A plan as a table: one row for each thing that it tells."""

from search.commands.estimate import Range, SearchTime
from search.commands.plan import Plan, PlannedShapes, Span


def plan_rows(made: Plan) -> list[tuple[str, str]]:
    """Returns the rows of a plan: what is told, and its figures."""
    shapes, trials, text, files = made.shapes, made.trials, made.text, made.files
    vocabulary, assistant, kept = made.vocabulary, made.assistant, files.stable_states_bytes
    # A vocabulary that is not cut yet may become smaller.
    most = "at most " if vocabulary is not None and not vocabulary.is_known else ""
    return [
        ("student shapes", _feasible(shapes, "at least " if most else "")),
        *([("assistant", f"{assistant.label}, teaches {assistant.num_shapes} of the shapes")] if assistant else []),
        *([("vocabulary", f"{most}{vocabulary.size:,} of {vocabulary.num_full:,} tokens")] if vocabulary else []),
        ("parameters", most + _figure(shapes.num_parameters, 1e6, " M")),
        ("size in fp32", most + _figure(shapes.size_bytes, 1e6, " MB")),
        ("size in int8", most + _figure(shapes.int8_size_bytes, 1e6, " MB")),
        ("FLOPs a sequence", _figure(shapes.flops, 1e9, " GFLOP", 2)),
        ("predicted latency", _figure(shapes.latency_ms, 1, " ms", 2)),
        *((f"latency at {name}", _figure(found, 1, " ms", 2)) for name, found in shapes.latencies_ms.items()),
        ("trials", f"{trials.num_trials}, {trials.max_concurrent_trials} at a time"),
        ("held while running", f"{trials.num_cpus:g} CPU cores, {trials.num_gpus:g} GPUs"),
        ("tokens a student", _figure(text.tokens_per_trial, 1e6, " M", 2)),
        ("corpus at most", _figure(text.max_corpus_tokens, 1e6, " M tokens", 2)),
        ("teacher's targets", _figure(files.targets_bytes, 1e6, " MB")),
        ("epochs a student", _figure(text.epochs_per_trial, 1, "", 2)),
        ("students on disk", most + _figure(files.students_bytes, 1e6, " MB", 0)),
        ("checkpoints on disk", most + _figure(files.checkpoints_bytes, 1e6, " MB", 0)),
        *([("kept for more steps", most + _figure(kept, 1e6, " MB", 0))] if kept is None or kept.high else []),
        *(_time_rows(made, made.time) if made.time else [("time", "unknown (plan --time measures it)")]),
    ]


def _time_rows(made: Plan, time: SearchTime) -> list[tuple[str, str]]:
    """Returns the rows of the time of a search, with what it leaves out."""
    timings, unit = time.timings, "GPU" if made.trials.num_gpus else "core"
    preparation = "unknown: corpus.max_tokens is not set, and the text is not packed yet"
    if time.preparation_seconds is not None:
        preparation = _duration(time.preparation_seconds)
    return [
        ("distilling a student", _durations(time.distillation_seconds)),
        ("fine-tuning it", _durations(time.finetuning_seconds)),
        ("teacher's pass", preparation),
        ("baselines", _durations(time.baselines_seconds)),
        *([("trials until it ends", _numbers(time.num_trials, 0))] if _ends_early(made, time) else []),
        ("device-hours", f"{_numbers(time.device_hours, 2)} {unit}-hours"),
        ("wall time", _durations(time.wall_seconds)),
        ("measured", f"{timings.measured_at}, in {_duration(timings.seconds)}, {_processes(time)}, {timings.device}"),
        *(("note", note) for note in _notes(made, time)),
    ]


def _ends_early(made: Plan, time: SearchTime) -> bool:
    return time.num_trials.low < made.trials.num_trials


def _processes(time: SearchTime) -> str:
    count = time.timings.num_processes
    return "by one process" if count == 1 else f"by {count} processes at once"


def _notes(made: Plan, time: SearchTime) -> list[str]:
    """Returns what a reader of the time should know of it."""
    notes = []
    if time.is_upper_bound:
        notes.append("early stopping is left out: as if no student were stopped")
    if made.shapes.num_shapes_feasible is None:
        notes.append(f"more shapes may be over a limit: {made.shapes.unknown_because}")
    if time.num_shapes_over_timeout:
        notes.append(f"{time.num_shapes_over_timeout} shapes take longer than budget.trial_timeout_minutes")
    if _ends_early(made, time):
        notes.append("budget.max_device_hours, or the number of students in the space, ends the search")
    if time.preparation_seconds is None:
        notes.append("device-hours and wall time are without the teacher's pass over the text")
    return notes


def _durations(seconds: Range) -> str:
    return f"{_duration(seconds.low)} to {_duration(seconds.high)}, about {_duration(seconds.mean)}"


def _numbers(figure: Range, digits: int) -> str:
    return f"{figure.low:,.{digits}f} to {figure.high:,.{digits}f}, about {figure.mean:,.{digits}f}"


def _duration(seconds: float) -> str:
    """Returns a time with two or three digits."""
    if seconds < 100:
        return f"{seconds:.{0 if seconds >= 10 else 1}f} s"
    if seconds < 6000:
        return f"{seconds / 60:.{0 if seconds >= 600 else 1}f} min"
    return f"{seconds / 3600:.{0 if seconds >= 36000 else 1}f} h"


def _feasible(shapes: PlannedShapes, least: str) -> str:
    """Returns how many shapes are within the limits of how many, or why that is unknown."""
    if shapes.num_shapes_feasible is None:
        return f"{shapes.num_shapes}, an unknown number within the limits: {shapes.unknown_because}"
    return f"{least}{shapes.num_shapes_feasible} of {shapes.num_shapes} are within the limits"


def _figure(value: float | Span | None, scale: float, unit: str, digits: int = 1) -> str:
    """Returns a figure, or a range of it, in multiples of `scale`."""
    if value is None:
        return "unknown"
    if isinstance(value, Span):
        return f"{value.low / scale:,.{digits}f} to {value.high / scale:,.{digits}f}{unit}"
    return f"{value / scale:,.{digits}f}{unit}"
