import json
from collections.abc import Callable

import optuna
import pytest

from search.driver.run import MIN_TRIALS_FOR_IMPORTANCES, write_importances
from search.study.resolved import ResolvedStudy


def study_of(num_trials: int, resolved: ResolvedStudy) -> optuna.Study:
    """Returns a study in which accuracy is the learning rate of fine-tuning."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(num_trials):
        trial = study.ask()
        choice = resolved.config.space.suggest(trial)
        study.tell(
            trial, [choice.finetuning_learning_rate, float(choice.architecture.num_parameters(resolved.student_family))]
        )
    return study


def test_the_choice_that_determines_accuracy_is_the_most_important(open_study: Callable[..., ResolvedStudy]) -> None:
    resolved = open_study(is_prepared=False)
    write_importances(study_of(60, resolved), resolved)
    written = json.loads(resolved.paths.importances.read_text(encoding="utf-8"))
    assert written.keys() == {"accuracy"}
    assert max(written["accuracy"], key=written["accuracy"].__getitem__) == "finetuning_learning_rate"


@pytest.mark.parametrize("num_missing", [1, MIN_TRIALS_FOR_IMPORTANCES])
def test_too_few_trials_give_no_importances(open_study: Callable[..., ResolvedStudy], num_missing: int) -> None:
    resolved = open_study(is_prepared=False)
    write_importances(study_of(MIN_TRIALS_FOR_IMPORTANCES - num_missing, resolved), resolved)
    assert not resolved.paths.importances.exists()
