import json
from collections.abc import Callable

import optuna
import pytest

from search.driver.run import MIN_TRIALS_FOR_IMPORTANCES, write_importances
from search.study.context import StudyContext


def study_of(num_trials: int, context: StudyContext) -> optuna.Study:
    """A study in which only the fine-tuning rate moves accuracy, upwards."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(num_trials):
        trial = study.ask()
        choice = context.config.space.suggest(trial)
        study.tell(trial, [choice.finetuning_learning_rate, float(choice.architecture.num_parameters(context.family))])
    return study


def test_what_moves_accuracy_comes_first(open_study: Callable[..., StudyContext]) -> None:
    context = open_study(is_prepared=False)
    write_importances(study_of(60, context), context)
    written = json.loads(context.study.importances.read_text(encoding="utf-8"))
    assert written.keys() == {"accuracy"}
    assert max(written["accuracy"], key=written["accuracy"].__getitem__) == "finetuning_learning_rate"


@pytest.mark.parametrize("num_missing", [1, MIN_TRIALS_FOR_IMPORTANCES])
def test_too_few_trials_tell_nothing(open_study: Callable[..., StudyContext], num_missing: int) -> None:
    context = open_study(is_prepared=False)
    write_importances(study_of(MIN_TRIALS_FOR_IMPORTANCES - num_missing, context), context)
    assert not context.study.importances.exists()
