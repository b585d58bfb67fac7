"""A plan as a table: one row for each thing that it tells."""

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
        ("FLOPs a sequence", _figure(shapes.flops, 1e9, " GFLOP", 2)),
        ("predicted latency", _figure(shapes.latency_ms, 1, " ms", 2)),
        ("trials", f"{trials.num_trials}, {trials.max_concurrent_trials} at a time"),
        ("held while running", f"{trials.num_cpus:g} CPU cores, {trials.num_gpus:g} GPUs"),
        ("tokens a student", _figure(text.tokens_per_trial, 1e6, " M", 2)),
        ("corpus at most", _figure(text.max_corpus_tokens, 1e6, " M tokens", 2)),
        ("teacher's targets", _figure(files.targets_bytes, 1e6, " MB")),
        ("epochs a student", _figure(text.epochs_per_trial, 1, "", 2)),
        ("students on disk", most + _figure(files.students_bytes, 1e6, " MB", 0)),
        ("checkpoints on disk", most + _figure(files.checkpoints_bytes, 1e6, " MB", 0)),
        *([("kept for more steps", most + _figure(kept, 1e6, " MB", 0))] if kept is None or kept.high else []),
    ]


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
