"""The space of students: a list or a range for each parameter, of which every combination is a valid student."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.initialisation import Initialisation
from minilm_core.results.records import TrialRecord
from minilm_core.settings.schedules import Method

if TYPE_CHECKING:
    import optuna

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogRange:
    """All values between two positive ends, drawn uniformly on a logarithmic scale.

    Raises:
        UserError: unless 0 < low <= high, both finite.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < math.inf:
            raise UserError(f"low must be positive and at most high, got {self.low} and {self.high}")

    def __contains__(self, value: float) -> bool:
        # A sampler draws the logarithm, so that a value may miss an end by a rounding error.
        return self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)


Choices = tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | LogRange


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentChoice:
    """Everything that the search decides about one student."""

    architecture: StudentArchitecture
    distillation_learning_rate: float
    """Peak learning rate, reached after warm-up."""
    finetuning_learning_rate: float
    """Peak learning rate, reached after warm-up."""
    initialisation: Initialisation = Initialisation.RANDOM

    def to_dict(self) -> dict[str, Any]:
        """Returns the choice as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: TrialRecord) -> "StudentChoice":
        """Returns the choice of the student that a record describes."""
        assert record.distillation_learning_rate is not None, "a student's record has its learning rates"
        assert record.finetuning_learning_rate is not None, "a student's record has its learning rates"
        return cls(
            architecture=record.architecture,
            distillation_learning_rate=record.distillation_learning_rate,
            finetuning_learning_rate=record.finetuning_learning_rate,
            initialisation=record.initialisation or Initialisation.RANDOM,
        )

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "StudentChoice":
        """Reads what `to_dict` wrote."""
        architecture = StudentArchitecture(**content["architecture"])
        # Choices that were written by a version without initialisations have none.
        initialisation = Initialisation(content.get("initialisation", Initialisation.RANDOM))
        return cls(**{**content, "architecture": architecture, "initialisation": initialisation})


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentSpace:
    """The students that a search may build, and their learning rates. Every combination is a valid student.

    Raises:
        UserError: if a list is empty or repeats a value, a value is not positive, or heads do not divide a hidden size.
    """

    num_layers: tuple[int, ...]
    hidden_sizes: tuple[int, ...]
    head_sizes: tuple[int, ...] = ()
    """Widths of one attention head, which give the number of heads. Empty if `num_heads` is given."""
    num_heads: int | None = None
    """Attention heads of every student. None: the hidden size divided by the head size."""
    intermediate_ratios: tuple[float, ...] = (4.0,)
    """Widths of the feed-forward layer, divided by the hidden size."""
    distillation_learning_rate: LogRange | tuple[float, ...]
    finetuning_learning_rate: LogRange | tuple[float, ...]
    initialisations: tuple[Initialisation, ...] = (Initialisation.RANDOM,)
    """What students may take over from their teacher before training."""

    def __post_init__(self) -> None:
        if bool(self.head_sizes) == (self.num_heads is not None):
            raise UserError(
                f"head_sizes must be given, or num_heads instead, got {list(self.head_sizes)} and {self.num_heads}"
            )
        for name in ("num_layers", "hidden_sizes", "intermediate_ratios"):
            _check_choices(name, getattr(self, name))
        _check_list("initialisations", self.initialisations)
        for name in ("distillation_learning_rate", "finetuning_learning_rate"):
            _check_learning_rate(name, getattr(self, name))
        if self.head_sizes:
            _check_choices("head_sizes", self.head_sizes)
        for divisor in self.head_sizes or (self.num_heads,):
            self._check_divides("head_sizes" if self.head_sizes else "num_heads", divisor)

    @property
    def parameters(self) -> dict[str, Choices]:
        """The choices of each Optuna parameter, by its name."""
        head_size: dict[str, Choices] = {"head_size": self.head_sizes} if self.head_sizes else {}
        names = tuple(str(initialisation) for initialisation in self.initialisations)
        return {
            "num_layers": self.num_layers,
            "hidden_size": self.hidden_sizes,
            **head_size,
            "intermediate_ratio": self.intermediate_ratios,
            "distillation_learning_rate": self.distillation_learning_rate,
            "finetuning_learning_rate": self.finetuning_learning_rate,
            # Only if there is a choice, so that studies from before there were initialisations can be resumed.
            **({"initialisation": names} if len(names) > 1 else {}),
        }

    @property
    def num_shapes(self) -> int:
        """The number of different architectures."""
        lists = (self.num_layers, self.hidden_sizes, self.head_sizes or (self.num_heads,), self.intermediate_ratios)
        return math.prod(len(choices) for choices in lists)

    def architectures(self) -> Iterator[StudentArchitecture]:
        """Yields every architecture once."""
        heads: tuple[int | None, ...] = self.head_sizes or (None,)
        for choice in itertools.product(self.num_layers, self.hidden_sizes, heads, self.intermediate_ratios):
            yield self._architecture(*choice)

    def students_of(self, shape: StudentArchitecture, random: Random) -> Iterator[StudentChoice]:
        """Yields the students of a shape in a random order: all of them, or one for each initialisation and rate of a
        list where a rate is of a range, from which it is drawn.
        """
        students = [
            StudentChoice(
                architecture=shape,
                distillation_learning_rate=distillation_rate,
                finetuning_learning_rate=finetuning_rate,
                initialisation=initialisation,
            )
            for initialisation in self.initialisations
            for distillation_rate in _rates(self.distillation_learning_rate, random)
            for finetuning_rate in _rates(self.finetuning_learning_rate, random)
        ]
        random.shuffle(students)
        yield from students

    def typical(self, num_layers: int, hidden_size: int) -> StudentChoice:
        """Returns a student of these sizes whose other choices are the space's middle ones, as of their logarithms.

        Raises:
            UserError: if no student of the space has these sizes.
        """
        if num_layers not in self.num_layers or hidden_size not in self.hidden_sizes:
            raise UserError(
                f"a student must be in the space ({_shown(self.num_layers)} layers, widths "
                f"{_shown(self.hidden_sizes)}), got {num_layers}x{hidden_size}"
            )
        head_size = _middle(self.head_sizes) if self.head_sizes else None
        return StudentChoice(
            architecture=self._architecture(num_layers, hidden_size, head_size, _middle(self.intermediate_ratios)),
            distillation_learning_rate=_middle_rate(self.distillation_learning_rate),
            finetuning_learning_rate=_middle_rate(self.finetuning_learning_rate),
            initialisation=self.initialisations[0],
        )

    def suggest(self, trial: "optuna.trial.BaseTrial") -> StudentChoice:
        """Returns a student whose parameters Optuna chooses."""
        return self.decode({name: _suggest(trial, name, choices) for name, choices in self.parameters.items()})

    def decode(self, params: Mapping[str, Any]) -> StudentChoice:
        """Returns the student that Optuna's parameters describe.

        Raises:
            UserError: if a parameter is missing or its value is not in the space.
        """
        for name, choices in self.parameters.items():
            if params.get(name) is None or params[name] not in choices:
                raise UserError(f"{name} must be in the space ({_shown(choices)}), got {params.get(name)}")
        architecture = self._architecture(
            params["num_layers"], params["hidden_size"], params.get("head_size"), params["intermediate_ratio"]
        )
        return StudentChoice(
            architecture=architecture,
            distillation_learning_rate=params["distillation_learning_rate"],
            finetuning_learning_rate=params["finetuning_learning_rate"],
            initialisation=Initialisation(params.get("initialisation", self.initialisations[0])),
        )

    def encode(self, choice: StudentChoice) -> dict[str, Any]:
        """Returns Optuna's parameters of a student: the inverse of `decode`."""
        params = {
            "num_layers": choice.architecture.num_layers,
            "hidden_size": choice.architecture.hidden_size,
            "head_size": choice.architecture.head_size,
            "intermediate_ratio": choice.architecture.intermediate_ratio,
            "distillation_learning_rate": choice.distillation_learning_rate,
            "finetuning_learning_rate": choice.finetuning_learning_rate,
            "initialisation": str(choice.initialisation),
        }
        return {name: params[name] for name in self.parameters}

    def check_relation_heads(self, relation_heads: int) -> None:
        """Checks that Q, K and V of every student can be split into the relation heads.

        Raises:
            UserError: naming the first hidden size that is not a multiple of `relation_heads`.
        """
        for hidden_size in self.hidden_sizes:
            if hidden_size % relation_heads:
                raise UserError(
                    f"distillation.relation_heads must divide every hidden size of the space, "
                    f"got {relation_heads} and {hidden_size}"
                )

    def check_initialisations(self, teacher: StudentArchitecture, distilled_layer: int) -> None:
        """Checks that no student is larger than what it would take over from its teacher.

        Raises:
            UserError: naming the size and the initialisation.
        """
        for initialisation, student in itertools.product(self.initialisations, self.architectures()):
            initialisation.check(student, teacher, distilled_layer)

    def for_method(self, method: Method, teacher_num_heads: int) -> "StudentSpace":
        """Returns the space for a method. MiniLM compares head by head, so its students get the teacher's heads.

        Raises:
            UserError: if the method needs a number of heads that the space or its hidden sizes do not allow.
        """
        if method is Method.MINILMV2 or self.num_heads == teacher_num_heads:
            return self
        if self.num_heads is not None:
            raise UserError(
                f"space.num_heads must be the teacher's with method {method}, "
                f"got {self.num_heads} and {teacher_num_heads}"
            )
        return replace(self, head_sizes=(), num_heads=teacher_num_heads)

    def _architecture(
        self, num_layers: int, hidden_size: int, head_size: int | None, intermediate_ratio: float
    ) -> StudentArchitecture:
        num_heads = self.num_heads if head_size is None else hidden_size // head_size
        assert num_heads is not None, "a space has head sizes or a number of heads"
        return StudentArchitecture(
            num_layers=num_layers,
            hidden_size=hidden_size,
            num_heads=num_heads,
            intermediate_ratio=intermediate_ratio,
        )

    def _check_divides(self, name: str, divisor: int | None) -> None:
        if divisor is None or divisor < 1:
            raise UserError(f"{name} must be positive, got {divisor}")
        for hidden_size in self.hidden_sizes:
            if hidden_size % divisor:
                raise UserError(f"{name} must divide every hidden size, got {divisor} and {hidden_size}")


def _rates(choices: LogRange | tuple[float, ...], random: Random) -> tuple[float, ...]:
    """Returns the rates of a list, or one that is drawn from a range."""
    if not isinstance(choices, LogRange):
        return choices
    return (math.exp(random.uniform(math.log(choices.low), math.log(choices.high))),)


def _middle(choices: tuple[Number, ...]) -> Number:
    return sorted(choices)[len(choices) // 2]


def _middle_rate(choices: LogRange | tuple[float, ...]) -> float:
    return math.sqrt(choices.low * choices.high) if isinstance(choices, LogRange) else _middle(choices)


def _check_choices(name: str, choices: tuple[float, ...]) -> None:
    _check_list(name, choices)
    if min(choices) <= 0:
        raise UserError(f"{name} must be positive, got {min(choices)}")


def _check_list(name: str, choices: tuple[float, ...] | tuple[str, ...]) -> None:
    if not choices:
        raise UserError(f"{name} must have at least one value, got []")
    if len(set(choices)) < len(choices):
        raise UserError(f"{name} must not repeat a value, got [{', '.join(map(str, choices))}]")


def _check_learning_rate(name: str, choices: LogRange | tuple[float, ...]) -> None:
    if not isinstance(choices, LogRange):
        _check_choices(name, choices)
    highest = choices.high if isinstance(choices, LogRange) else max(choices)
    if highest >= 1:
        raise UserError(f"{name} must be below 1, got {highest}")


def _suggest(trial: "optuna.trial.BaseTrial", name: str, choices: Choices) -> Any:
    if isinstance(choices, LogRange):
        return trial.suggest_float(name, choices.low, choices.high, log=True)
    steps = _even_steps(choices)
    if steps is not None:
        # An integer distribution lets the sampler know which sizes are neighbours; a categorical one does not.
        return trial.suggest_int(name, steps.start, steps[-1], step=steps.step)
    return trial.suggest_categorical(name, choices)


def _even_steps(choices: tuple[int, ...] | tuple[float, ...] | tuple[str, ...]) -> range | None:
    """Returns the choices as a range if they are at least two evenly spaced whole numbers, else None."""
    whole = sorted(int(choice) for choice in choices if not isinstance(choice, str) and choice == int(choice))
    if len(choices) < 2 or len(whole) < len(choices):
        return None
    steps = range(whole[0], whole[-1] + 1, whole[1] - whole[0])
    return steps if list(steps) == whole else None


def _shown(choices: Choices) -> str:
    if isinstance(choices, LogRange):
        return f"{choices.low} to {choices.high}"
    return ", ".join(str(choice) for choice in choices)
