"""Retrieval: its data in the layout of BEIR, and how well passages are ranked. No torch.

A folder has the passages in corpus.jsonl ({_id, title, text}; the title may be missing), the queries in queries.jsonl
({_id, text}), and for each split the grades of pairs in qrels/SPLIT.tsv, with a header and the columns query-id,
corpus-id and score. The first two files may be .parquet.

Source: Thakur et al., 2021 (BEIR).
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from minilm_core.errors import UserError
from minilm_core.tasks.tables import Rows, Table, read_files

QUERY, GRADES = "query", "grades"
"""The columns of a table of queries: the text, and pairs of a passage's index and its grade."""
IDENTICAL = -1
"""The grade of a passage that is the query itself, which is not ranked."""
NUM_RANKED = 10
"""The passages at the top of a ranking that count."""
QUERIES_AT_ONCE = 128
"""The queries whose cosines with all passages are in memory together."""


def read_retrieval(folder: Path, split: str) -> Table | None:
    """Returns the queries of a split with the grades of passages, and all passages; None if there is no such split.

    A query without a passage of a grade above 0 is left out: no ranking of it is better than another.

    Raises:
        UserError: if a file is missing or damaged, or a grade is no whole number or that of an unknown text.
    """
    path = folder / "qrels" / f"{split}.tsv"
    if not path.is_file():
        return None
    queries, passages = _texts(folder, "queries"), _texts(folder, "corpus")
    indices = {name: index for index, name in enumerate(passages)}
    grades: dict[str, list[tuple[int, int]]] = {}
    lines: dict[str, int] = {}
    for number, query, passage, grade in _grades(path):
        for found, known, what in ((query, queries, "queries"), (passage, indices, "corpus")):
            if found not in known:
                raise UserError(f"a grade must be that of a text in {what}, got {found} in line {number} of {path}")
        lines.setdefault(query, number)
        grades.setdefault(query, []).append((indices[passage], grade))
    kept = [query for query, of_query in grades.items() if any(grade > 0 for _, grade in of_query)]
    for query in kept:
        if query in indices:
            grades[query].append((indices[query], IDENTICAL))
    columns: dict[str, list[Any]] = {
        QUERY: [queries[query] for query in kept],
        GRADES: [grades[query] for query in kept],
    }
    numbers = [lines[query] for query in kept]
    rows = Rows(source=str(path), unit="line", numbers=numbers, columns=columns, found=(QUERY, GRADES))
    return Table(parts=(rows,), passages=tuple(passages.values()))


def ndcg(
    queries: Float[np.ndarray, "queries dimensions"],
    passages: Float[np.ndarray, "passages dimensions"],
    grades: Sequence[Int[np.ndarray, "graded 2"]],
) -> Float[np.ndarray, " queries"]:
    """Returns the normalised discounted cumulative gain of each query's ten nearest passages, in [0, 1].

    A gain is a grade above 0, and equally near passages keep their order.

    Source: Järvelin and Kekäläinen, 2002.
    """
    each = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        cosines = queries[start : start + QUERIES_AT_ONCE] @ passages.T
        for of_query, graded in zip(cosines, grades[start : start + QUERIES_AT_ONCE], strict=True):
            gains = np.zeros(len(passages))
            gains[graded[:, 0]] = np.maximum(graded[:, 1], 0)
            of_query[graded[graded[:, 1] == IDENTICAL, 0]] = -np.inf
            ranked = np.argsort(-of_query, kind="stable")[:NUM_RANKED]
            each.append(_discounted(gains[ranked]) / _discounted(np.sort(gains)[::-1][:NUM_RANKED]))
    return np.array(each)


def _discounted(gains: Float[np.ndarray, " ranks"]) -> float:
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())


def _texts(folder: Path, name: str) -> dict[str, str]:
    """Returns the texts of a file by their ids, in order; a title precedes its text."""
    path = next(
        (folder / f"{name}{end}" for end in (".jsonl", ".parquet") if (folder / f"{name}{end}").is_file()), None
    )
    if path is None:
        raise UserError(f"a retrieval must have {name}.jsonl or {name}.parquet, got none in {folder}")
    table = read_files([path], ("_id", "title", "text"))
    titles = table.column("title") if table.has_column("title") else [None] * table.num_rows
    texts: dict[str, str] = {}
    for index, (key, title, text) in enumerate(zip(table.column("_id"), titles, table.column("text"), strict=True)):
        if not isinstance(key, str | int) or not isinstance(text, str) or str(key) in texts:
            raise UserError(
                f"every text of a retrieval must be a string with an _id of its own, "
                f"got {text!r:.40} with {key!r} in {table.location(index)}"
            )
        texts[str(key)] = f"{title or ''} {text}".strip()
    return texts


def _grades(path: Path) -> Iterator[tuple[int, str, str, int]]:
    """Yields the line, the query, the passage and the grade of each pair."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
            if number == 1 or not row:
                continue
            if len(row) != 3 or not row[2].strip().lstrip("-").isdecimal():
                raise UserError(
                    f"a line of grades must be a query's id, a passage's id and a whole number, "
                    f"got {' '.join(row)[:60]} in line {number} of {path}"
                )
            yield number, row[0], row[1], int(row[2])
