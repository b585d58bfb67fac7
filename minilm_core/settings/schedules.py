"""The settings of distillation and fine-tuning. Imports no torch."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from minilm_core.errors import UserError
from minilm_core.settings.learning_rates import LearningRateCurve, LearningRateSchedule
from minilm_core.settings.soft_labels import SoftLabels


class Method(StrEnum):
    """Which relations of the teacher's layer are distilled."""

    MINILM = "minilm"
    """Attention distribution (Q-K) and value relation (V-V) over the attention heads. Source: Wang et al., 2020."""
    MINILMV2 = "minilmv2"
    """Q-Q, K-K and V-V over any number of relation heads. Source: Wang et al., 2021."""


class Relation(StrEnum):
    """One term of the loss, which compares a layer of the teacher with a layer of the student."""

    ATTENTION = "attention"
    """The attention distribution: the softmax of the layer's own scores, including position biases (MiniLM)."""
    QUERY = "query"
    """Queries with queries (MiniLMv2)."""
    KEY = "key"
    """Keys with keys (MiniLMv2)."""
    VALUE = "value"
    """Values with values."""
    VALUE_VECTORS = "value_vectors"
    """The mean squared error of the values themselves, which replaces their relation in MiniLM's ablation."""
    HIDDEN_STATES = "hidden_states"
    """The squared distance of the states that leave the layer, over the squared length of the teacher's. The student's
    are compared with the dimensions of its teacher's that a student of its width inherits."""


PROJECTED_RELATIONS = tuple(relation for relation in Relation if relation is not Relation.HIDDEN_STATES)
"""The relations whose operands the layer's own projections compute from the states that enter it."""


def entered_layers(layers: Iterable[int], relations: Collection[Relation]) -> tuple[int, ...]:
    """Returns the layers whose entering states the relations of some layers need, in rising order.

    The states that leave a layer are those that enter the next one; the number after the last layer stands for what
    leaves the encoder.
    """
    distilled = set(layers)
    leaving = {layer + 1 for layer in distilled} if Relation.HIDDEN_STATES in relations else set()
    return tuple(sorted(distilled | leaving))


METHOD_RELATIONS = {
    Method.MINILM: (Relation.ATTENTION, Relation.VALUE),
    Method.MINILMV2: (Relation.QUERY, Relation.KEY, Relation.VALUE),
}
"""The relations of each method, which have equal weights by default."""

ALLOWED_RELATIONS = {
    Method.MINILM: (*METHOD_RELATIONS[Method.MINILM], Relation.VALUE_VECTORS, Relation.HIDDEN_STATES),
    Method.MINILMV2: (*METHOD_RELATIONS[Method.MINILMV2], Relation.HIDDEN_STATES),
}
"""The relations that the setting `relations` may name with each method."""


class LayerMapping(StrEnum):
    """Which layers of the student are paired with which layers of the teacher."""

    LAST = "last"
    """The student's last layer with the teacher's distilled layer."""
    UNIFORM = "uniform"
    """Layer m of the student's M with layer m·L/M of the teacher's L, as in MiniLM's ablation; M must divide L."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerPairs:
    """Pairs of distilled layers, counted from 1: the first of `student` with the first of `teacher`, and so on."""

    student: tuple[int, ...]
    teacher: tuple[int, ...]


class Precision(StrEnum):
    """The precision of matrix products; parameters and optimiser state are always fp32."""

    AUTO = "auto"
    """bf16 if the device has instructions for it, else fp32."""
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    """With loss scaling; for GPUs without bf16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationSchedule:
    """The settings of a student's distillation, except its learning rate, which the search chooses.

    Raises:
        UserError: if a number is outside its range, or given for a method or a learning-rate schedule without it.
    """

    num_steps: int
    """Optimiser steps."""
    batch_size: int
    """Sequences per step, over all workers."""
    micro_batch_size: int | None = None
    """Sequences per forward pass of a worker; a step accumulates their gradients. None: all at once."""
    method: Method = Method.MINILMV2
    relation_heads: int | None = None
    """Heads that Q, K and V are split into (MiniLMv2 only); must divide the teacher's and every student's width."""
    relations: Mapping[Relation, float] | None = None
    """The relations that are compared, with their weights. None: the relations of the method, each with weight 1."""
    layer_mapping: LayerMapping = LayerMapping.LAST
    schedule: LearningRateSchedule = LearningRateSchedule.LINEAR
    """How the learning rate falls after its warm-up."""
    warmup_fraction: float = 0.01
    """Fraction of the steps in which the learning rate rises linearly to its peak."""
    decay_fraction: float | None = None
    """Fraction of the steps, at the end, in which the learning rate falls (schedule wsd only). None: 0.2."""
    keep_stable_state: bool | None = None
    """Whether a search keeps the state of training at the beginning of that decay (schedule wsd only), from which a
    student goes on for more steps. None: it does with schedule wsd."""
    weight_decay: float = 0.01
    adam_betas: tuple[float, float] = (0.9, 0.999)
    max_gradient_norm: float = 1.0
    dropout: float | None = None
    """Dropout probability of activations and attention during distillation. None: that of the student's configuration,
    which is its teacher's. With 0, a small student gets closer to its teacher in the same number of steps."""
    precision: Precision = Precision.AUTO
    checkpoint_activations: bool = False
    """Store only the layers' inputs and recompute the rest in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the student's layers before the first step. For GPUs; on a CPU compiled layers are slower."""
    num_evaluations: int = 5
    """How many times the held-out loss is measured, the last time at the end."""
    checkpoint_every_seconds: float = 60.0

    def __post_init__(self) -> None:
        _make_members(
            self, method=Method, layer_mapping=LayerMapping, schedule=LearningRateSchedule, precision=Precision
        )
        _at_least_one(num_steps=self.num_steps, batch_size=self.batch_size, num_evaluations=self.num_evaluations)
        _at_least_one(micro_batch_size=self.micro_batch_size)
        _fraction(warmup_fraction=self.warmup_fraction, dropout=self.dropout)
        if not self.max_gradient_norm > 0:
            raise UserError(f"max_gradient_norm must be positive, got {self.max_gradient_norm}")
        if not self.weight_decay >= 0:
            raise UserError(f"weight_decay must not be negative, got {self.weight_decay}")
        if not self.checkpoint_every_seconds >= 0:
            raise UserError(f"checkpoint_every_seconds must not be negative, got {self.checkpoint_every_seconds}")
        if not all(0 <= beta < 1 for beta in self.adam_betas):
            raise UserError(f"adam_betas must lie in [0, 1), got {self.adam_betas}")
        if self.method is Method.MINILM and self.relation_heads is not None:
            raise UserError(
                f"relation_heads must be left out with method minilm, whose heads are the teacher's, "
                f"got {self.relation_heads}"
            )
        if self.method is Method.MINILMV2 and (self.relation_heads is None or self.relation_heads < 1):
            raise UserError(f"relation_heads must be at least 1 with method minilmv2, got {self.relation_heads}")
        if self.relations is not None:
            self._check_relations(self.relations)
        if self.keep_stable_state is not None and self.schedule is not LearningRateSchedule.WSD:
            raise UserError(
                f"keep_stable_state must be left out with schedule {self.schedule}, got {self.keep_stable_state}"
            )
        # The curve checks the rest itself.
        _ = self.learning_rate_curve

    @property
    def keeps_stable_state(self) -> bool:
        """Whether the state of training at the beginning of the decay is kept."""
        return self.schedule is LearningRateSchedule.WSD and self.keep_stable_state is not False

    @property
    def learning_rate_curve(self) -> LearningRateCurve:
        """The learning rate at each step over its peak."""
        return LearningRateCurve(
            num_steps=self.num_steps,
            warmup_fraction=self.warmup_fraction,
            schedule=self.schedule,
            decay_fraction=self.decay_fraction,
        )

    def with_num_steps(self, num_steps: int) -> Self:
        """Returns this schedule for another number of steps, with as many steps of warm-up.

        With schedule wsd, the two trainings are then the same until the decay of the shorter one begins.

        Raises:
            UserError: if the steps are not enough for the warm-up and the decay.
        """
        num_warmup_steps = self.learning_rate_curve.num_warmup_steps
        if num_steps <= num_warmup_steps:
            raise UserError(f"num_steps must be more than the {num_warmup_steps} steps of warm-up, got {num_steps}")
        return replace(self, num_steps=num_steps, warmup_fraction=num_warmup_steps / num_steps)

    @property
    def compares_hidden_states(self) -> bool:
        """Whether the states that leave the distilled layers are compared, which a layer more is run for."""
        return Relation.HIDDEN_STATES in self.weights

    @property
    def weights(self) -> dict[Relation, float]:
        """The weight of every relation compared, in fixed order."""
        weights = dict.fromkeys(METHOD_RELATIONS[self.method], 1.0) if self.relations is None else self.relations
        return {relation: weights[relation] for relation in Relation if relation in weights}

    def layer_pairs(self, *, num_student_layers: int, num_teacher_layers: int, teacher_layer: int | None) -> LayerPairs:
        """Returns the pairs of layers that are compared.

        Args:
            num_student_layers: The number of all layers of the student.
            num_teacher_layers: The number of all layers of the teacher.
            teacher_layer: The teacher's distilled layer with mapping `last`. None: its last layer.

        Raises:
            UserError: if the mapping is `uniform` and num_student_layers does not divide num_teacher_layers, or a
                teacher layer is given.
        """
        if self.layer_mapping is LayerMapping.LAST:
            return LayerPairs(student=(num_student_layers,), teacher=(teacher_layer or num_teacher_layers,))
        if teacher_layer is not None:
            raise UserError(f"teacher.layer must be left out with layer_mapping uniform, got {teacher_layer}")
        if num_teacher_layers % num_student_layers:
            raise UserError(
                f"a student's layers must divide its teacher's with layer_mapping uniform, "
                f"got {num_student_layers} and {num_teacher_layers}"
            )
        layers = range(1, num_student_layers + 1)
        stride = num_teacher_layers // num_student_layers
        return LayerPairs(student=tuple(layers), teacher=tuple(layer * stride for layer in layers))

    def is_evaluation_due(self, step: int) -> bool:
        """Returns whether the held-out loss is measured after `step` steps: at even intervals and at the end.

        A run that was branched off a longer one is measured at its own intervals from there on. Measuring changes no
        later step, so the runs need not be measured at the same steps to be the same.
        """
        return is_event(step, self.num_steps, num_events=self.num_evaluations)

    def _check_relations(self, relations: Mapping[Relation, float]) -> None:
        allowed = ALLOWED_RELATIONS[self.method]
        if not relations:
            raise UserError("relations must name at least 1 relation, got 0")
        for relation, weight in relations.items():
            if relation not in allowed:
                raise UserError(
                    f"relations with method {self.method} must be among {', '.join(allowed)}, got {relation}"
                )
            if not 0 < weight < math.inf:
                raise UserError(f"relations must each have a positive weight, got {weight} for {relation}")


MAX_SEEDS = 100
"""The largest number of seeds that fine-tune one model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuningSchedule:
    """The settings of fine-tuning on a task, except the learning rate, which the search chooses.

    Raises:
        UserError: if a number is outside its range.
    """

    num_epochs: int = 3
    batch_size: int = 32
    """Examples per step, over all workers."""
    micro_batch_size: int | None = None
    """Examples per forward pass of a worker; a step accumulates their gradients. None: all at once."""
    max_length: int = 128
    """Longest example in tokens; longer ones are truncated."""
    warmup_fraction: float = 0.1
    """Fraction of the steps in which the learning rate rises to its peak; then it falls linearly to zero."""
    weight_decay: float = 0.01
    adam_betas: tuple[float, float] = (0.9, 0.999)
    max_gradient_norm: float = 1.0
    precision: Precision = Precision.AUTO
    selection_fraction: float = 0.0
    """Fraction of the train split that is cut off to choose the best epoch on. 0: the last epoch is kept."""
    patience: int | None = None
    """Epochs without a better score on that part after which fine-tuning stops. None: all epochs are run."""
    checkpoint_every_seconds: float = 60.0
    num_seeds: int = 1
    """The seeds that fine-tune each model on each task; its accuracy is the mean over them."""
    teacher_learning_rate: float = 2e-5
    """Peak learning rate of the fine-tuned teacher that students are compared with."""
    soft_labels: SoftLabels | None = None
    """How the outputs of the fine-tuned teacher are learnt from; None: labels alone are."""

    def __post_init__(self) -> None:
        _make_members(self, precision=Precision)
        _at_least_one(num_epochs=self.num_epochs, batch_size=self.batch_size, micro_batch_size=self.micro_batch_size)
        if not 1 <= self.num_seeds <= MAX_SEEDS:
            raise UserError(f"num_seeds must be between 1 and {MAX_SEEDS}, got {self.num_seeds}")
        if self.max_length < 3:
            raise UserError(f"max_length must be at least 3, got {self.max_length}")
        _fraction(warmup_fraction=self.warmup_fraction, selection_fraction=self.selection_fraction)
        _at_least_one(patience=self.patience)
        if self.patience is not None and not self.selection_fraction:
            raise UserError(f"patience must be left out where selection_fraction is 0, got {self.patience}")
        if not self.checkpoint_every_seconds >= 0:
            raise UserError(f"checkpoint_every_seconds must not be negative, got {self.checkpoint_every_seconds}")
        if not self.max_gradient_norm > 0:
            raise UserError(f"max_gradient_norm must be positive, got {self.max_gradient_norm}")
        if not self.weight_decay >= 0:
            raise UserError(f"weight_decay must not be negative, got {self.weight_decay}")
        if not all(0 <= beta < 1 for beta in self.adam_betas):
            raise UserError(f"adam_betas must lie in [0, 1), got {self.adam_betas}")
        if not 0 < self.teacher_learning_rate < 1:
            raise UserError(f"teacher_learning_rate must lie between 0 and 1, got {self.teacher_learning_rate}")


def is_event(step: int, num_steps: int, *, num_events: int) -> bool:
    """Returns whether an event falls on a step, counted from 1: events come at even intervals and at the last step."""
    return step * num_events // num_steps > (step - 1) * num_events // num_steps


def _make_members(settings: object, **kinds: type[StrEnum]) -> None:
    """Replaces names by members of their Enums, because members are compared by identity."""
    for name, kind in kinds.items():
        value = getattr(settings, name)
        if value not in list(kind):
            raise UserError(f"{name} must be one of {', '.join(kind)}, got {value}")
        object.__setattr__(settings, name, kind(value))


def _at_least_one(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UserError(f"{name} must be at least 1, got {count}")


def _fraction(**fractions: float | None) -> None:
    for name, fraction in fractions.items():
        if fraction is not None and not 0 <= fraction < 1:
            raise UserError(f"{name} must be at least 0 and below 1, got {fraction}")
