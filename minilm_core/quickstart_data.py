"""Makes a labelled task and a corpus from the documentation of the installed packages, which every machine has.

The task is to tell which subject a passage of documentation is about; names are masked. The passages come from the
prose of docstrings, which `ast` reads from source files without importing them, and from the Python language reference
in pydoc. All passages of a file belong to one split, and the corpus leaves out the files of validation and test.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import re
import sys
import sysconfig
import textwrap
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from minilm_core.errors import UserError

STANDARD_LIBRARY = "python"
LANGUAGE_REFERENCE = "pydoc_data/topics.py"
SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "arrays": ("numpy/_core", "numpy/lib", "numpy/ma", "numpy/polynomial"),
    "data frames": ("pandas/core",),
    "graphs": ("networkx/algorithms", "networkx/classes", "networkx/linalg"),
    "linear algebra": ("numpy/linalg", "scipy/linalg", "scipy/sparse", "sympy/matrices", "torch/linalg"),
    "neural networks": ("torch/ao/nn", "torch/nn", "torch/optim"),
    "optimisation": ("scipy/differentiate", "scipy/integrate", "scipy/interpolate", "scipy/optimize"),
    "python": (STANDARD_LIBRARY, LANGUAGE_REFERENCE),
    "signals": ("numpy/fft", "scipy/fft", "scipy/fftpack", "scipy/ndimage", "scipy/signal", "torch/signal"),
    "statistics": ("numpy/random", "scipy/stats", "sympy/stats", "torch/distributions"),
    "symbolic mathematics": ("sympy/core", "sympy/functions", "sympy/series", "sympy/sets", "sympy/solvers"),
}
"""The folders of installed packages by subject, none inside another; `python` is the standard library."""

# Tests, vendored code, and the parts of the standard library that only some machines have.
SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "_vendor", "dist-packages", "pydoc_data", "site-packages", "test", "tests", "testing"}
    | {"distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtledemo"}
)
EXAMPLES_PER_SUBJECT = {"train": 450, "validation": 100, "test": 150}
MAX_PASSAGES_PER_FILE = 40
MIN_PASSAGE_CHARACTERS = 60
MAX_PASSAGE_CHARACTERS = 400

# The prose of a docstring is its head and its Notes, up to a list of fields, a doctest or a directive.
HEADING = re.compile(r"^[ \t]*(\w[^\n]*)\n[ \t]*[-=~^*#]{3,}[ \t]*$", re.MULTILINE)
END_OF_PROSE = re.compile(r"^[ \t]*(?:>>>|\.\. |:\w+[^:\n]*:(?!`)|@\w+|[A-Z]\w+(?: \w+)?:{1,2}[ \t]*$)", re.MULTILINE)
LIBRARIES = "numpy scipy pandas torch pytorch networkx sympy python cpython matplotlib blas lapack matlab"
# Applied in this order, each to the result of the one before.
MASKS = (
    (re.compile(r"https?://\S+|\[\d+\]_?"), " "),
    (re.compile(r":math:`[^`]*`|\$[^$\n]+\$"), "formula"),
    (re.compile(r":[\w:]+:`[^`]*`|``[^`]*``|`[^`]*`_{0,2}"), "name"),
    (re.compile(rf"\b(?:{'|'.join(LIBRARIES.split())})s?\b", re.IGNORECASE), "library"),
    # Words that look like code: with dots, underscores, brackets, digits, or capitals inside.
    (
        re.compile(
            r"\b\w+(?:\.\w+)+\b|\b\w*[A-Za-z]\w*\([^)\s]*\)|\b\w*_\w*\b|\b\w*[a-z][A-Z]\w*\b|\b[A-Za-z]+\d\w*\b"
        ),
        "name",
    ),
    (re.compile(r"[*|\\~<>{}=+^\[\]]+|-{2,}"), " "),
    (re.compile(r"\b(name|formula|library)(?:[\s,]+\1\b)+"), r"\1"),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class InstalledText:
    """The files that were written."""

    task_folder: Path
    """The folder of train, validation and test .parquet with the columns text, label, label_name and source."""
    corpus: Path
    """The file of JSON lines with the key text."""
    card: Path
    """The file that describes the text: packages, versions, licences, counts, the rule of the split."""
    subjects: tuple[str, ...]
    """The names of the classes in order of their numbers."""
    num_examples: Mapping[str, int]
    """The number of examples of each split."""
    num_corpus_documents: int
    num_corpus_words: int


@dataclass(frozen=True, slots=True)
class _Document:
    """One docstring, or one chapter of the language reference."""

    source: str
    """The package and the path in it, the same on every machine."""
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class _Passage:
    document: _Document
    text: str


def write_installed_text(out: Path, subjects: Mapping[str, tuple[str, ...]] = SUBJECTS) -> InstalledText:
    """Writes the task, the corpus and their card into `out`; the same installation gives the same bytes.

    Args:
        out: The folder to write into; it is made if necessary.
        subjects: The classes in order of their numbers, each with the folders of packages about it.

    Raises:
        UserError: if a package is missing.
    """
    documents = list(_documents(subjects))
    passages = _passages(documents)
    split_of_file = _assign_files(passages)
    splits = _balanced(passages, split_of_file, tuple(subjects))
    task_folder = out / "docstrings"
    task_folder.mkdir(parents=True, exist_ok=True)
    for name, split in splits.items():
        _write_split(task_folder / f"{name}.parquet", split, tuple(subjects))
    corpus = _corpus(documents, split_of_file, passages)
    with (out / "corpus.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in corpus)
    written = InstalledText(
        task_folder=task_folder,
        corpus=out / "corpus.jsonl",
        card=out / "README.md",
        subjects=tuple(subjects),
        num_examples={name: len(split) for name, split in splits.items()},
        num_corpus_documents=len(corpus),
        num_corpus_words=sum(len(text.split()) for text in corpus),
    )
    # The card is written last: where it exists, everything else does.
    written.card.write_text(_card(written, subjects), encoding="utf-8")
    return written


def _documents(subjects: Mapping[str, tuple[str, ...]]) -> Iterator[_Document]:
    for subject, folders in subjects.items():
        for folder in folders:
            if folder == LANGUAGE_REFERENCE:
                for chapter, text in _language_reference().items():
                    yield _Document(f"{folder}:{chapter}", subject, text)
                continue
            for source, path in _source_files(folder):
                for text in _docstrings(path):
                    yield _Document(source, subject, text)


def _source_files(folder: str) -> list[tuple[str, Path]]:
    """Returns the files below a folder as (package and path, file), sorted."""
    package, _, inner = folder.partition("/")
    root = _package_root(package)
    files = [
        (f"{package}/{path.relative_to(root).as_posix()}", path)
        for path in (root / inner).rglob("*.py")
        if not SKIPPED_FOLDERS.intersection(path.relative_to(root).parts)
    ]
    return sorted(files)


def _package_root(package: str) -> Path:
    if package == STANDARD_LIBRARY:
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the text comes from installed packages, which must include {package}; pip install {package}")
    return Path(spec.submodule_search_locations[0])


def _docstrings(path: Path) -> Iterator[str]:
    nodes: list[ast.AST] = [_parse(path)]
    # The list grows in the loop. It holds statements only: expressions have no docstrings and are most of a tree.
    for node in nodes:
        nodes.extend(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def _language_reference() -> dict[str, str]:
    path = Path(sysconfig.get_path("stdlib")) / LANGUAGE_REFERENCE
    for node in _parse(path).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            chapters: dict[str, str] = ast.literal_eval(node.value)
            # Without its headings a chapter begins with prose, like a docstring.
            return {name: HEADING.sub("", text).strip() for name, text in sorted(chapters.items())}
    raise UserError(f"the language reference must be a dictionary of chapters, got no dictionary in {path}")


def _parse(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        # Some packages have invalid escape sequences.
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return ast.parse(path.read_bytes(), filename=str(path))


def masked_passages(text: str) -> list[str]:
    """Returns the prose of a docstring as passages of one line each, with names, formulas and libraries masked."""
    head, *rest = HEADING.split(text)
    sections = [head, *(body for title, body in zip(rest[::2], rest[1::2], strict=True) if title.strip() == "Notes")]
    pieces = [piece for section in sections for piece in textwrap.wrap(_masked(section), MAX_PASSAGE_CHARACTERS)]
    return [piece for piece in pieces if len(piece) >= MIN_PASSAGE_CHARACTERS]


def _masked(section: str) -> str:
    end = END_OF_PROSE.search(section)
    prose = section[: end.start()] if end else section
    for pattern, replacement in MASKS:
        prose = pattern.sub(replacement, prose)
    return prose.strip()


def _passages(documents: Iterable[_Document]) -> list[_Passage]:
    """Returns the passages sorted by hash, without duplicates and with a limited number for each file."""
    seen: set[str] = set()
    per_file: Counter[str] = Counter()
    kept = []
    found = (_Passage(document, text) for document in documents for text in masked_passages(document.text))
    for passage in sorted(found, key=lambda passage: (_hash(passage.text), passage.document.source)):
        normalised = _normalised(passage.text)
        source = passage.document.source
        if normalised not in seen and per_file[source] < MAX_PASSAGES_PER_FILE:
            seen.add(normalised)
            per_file[source] += 1
            kept.append(passage)
    return kept


def _assign_files(passages: Iterable[_Passage]) -> dict[str, str]:
    """Returns the split of each file. Files are assigned in order of hash, each to the split that is least full."""
    per_file = Counter((passage.document.subject, passage.document.source) for passage in passages)
    num_assigned: Counter[tuple[str, str]] = Counter()
    splits: dict[str, str] = {}
    for (subject, source), count in sorted(per_file.items(), key=lambda item: _hash(item[0][1])):
        split = min(EXAMPLES_PER_SUBJECT, key=lambda name: num_assigned[subject, name] / EXAMPLES_PER_SUBJECT[name])
        splits[source] = split
        num_assigned[subject, split] += count
    return splits


def _balanced(
    passages: Iterable[_Passage], split_of_file: Mapping[str, str], subjects: tuple[str, ...]
) -> dict[str, list[_Passage]]:
    """Returns the splits with equally many passages of every subject, in which the subjects alternate."""
    groups: dict[tuple[str, str], list[_Passage]] = defaultdict(list)
    for passage in passages:
        groups[split_of_file[passage.document.source], passage.document.subject].append(passage)
    splits = {}
    for split, limit in EXAMPLES_PER_SUBJECT.items():
        turns = zip(*(groups[split, subject] for subject in subjects), strict=False)
        splits[split] = [passage for turn in itertools.islice(turns, limit) for passage in turn]
    return splits


def _corpus(
    documents: Iterable[_Document], split_of_file: Mapping[str, str], passages: Iterable[_Passage]
) -> list[str]:
    """Returns the documents of the train files, sorted by hash, without those that repeat an evaluated passage."""
    evaluated = {_normalised(passage.text) for passage in passages if split_of_file[passage.document.source] != "train"}
    texts = {
        document.text
        for document in documents
        if split_of_file.get(document.source, "train") == "train"
        and evaluated.isdisjoint(map(_normalised, masked_passages(document.text)))
    }
    return sorted(texts, key=_hash)


def _normalised(text: str) -> str:
    return re.sub(r"[^a-z]+", " ", text.lower())


def _write_split(path: Path, passages: list[_Passage], subjects: tuple[str, ...]) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {
        "text": [passage.text for passage in passages],
        "label": [subjects.index(passage.document.subject) for passage in passages],
        "label_name": [passage.document.subject for passage in passages],
        "source": [passage.document.source for passage in passages],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def _card(written: InstalledText, subjects: Mapping[str, tuple[str, ...]]) -> str:
    found = {folder.partition("/")[0] for folders in subjects.values() for folder in folders}
    packages = sorted(found - {STANDARD_LIBRARY, LANGUAGE_REFERENCE.partition("/")[0]})
    python = ".".join(map(str, sys.version_info[:3]))
    rows = [f"| {STANDARD_LIBRARY} | {python} | PSF-2.0 |", *(_card_row(package) for package in packages)]
    counts = ", ".join(f"{count} {name}" for name, count in written.num_examples.items())
    return CARD.format(
        subjects=", ".join(written.subjects),
        counts=counts,
        documents=written.num_corpus_documents,
        words=written.num_corpus_words,
        rows="\n".join(rows),
    )


def _card_row(package: str) -> str:
    about = importlib.metadata.metadata(package).json
    expressions = [about.get("license_expression"), about.get("license")]
    classifiers = [line.rpartition(" :: ")[2] for line in about.get("classifier", ()) if line.startswith("License ::")]
    # In some packages the field has the whole text of the licence.
    names = (str(name) for name in (*expressions, *classifiers) if name and "\n" not in name)
    return f"| {package} | {about['version']} | {next(names, 'see its distribution')} |"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


CARD = """# Text of the installed packages

`docstrings/`: passages of documentation, labelled with one of these subjects: {subjects}. {counts} examples, every
subject equally often in each split. A passage has up to 400 characters of the prose at the head or under the Notes of a
docstring, or of a chapter of the Python language reference. Code, formulas, names and libraries are masked. No passage
occurs twice.

`corpus.jsonl`: {documents} docstrings and chapters, unmasked, {words} words. It leaves out the files of validation and
test, and copies of their passages.

All passages of a source file belong to one split: files are assigned in order of the hash of their names, each to the
split that is least full. The same versions of the packages give the same files. The text belongs to its packages, under
their licences:

| package | version | licence |
|---|---|---|
{rows}
"""
