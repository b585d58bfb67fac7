"""Functions for the fuzz tests: they draw damaged values and files, and run the command line in this process."""

import io
import json
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from search.cli import main
from search.cli.terminal import ExitCode

DOCUMENTED = frozenset(int(code) for code in ExitCode)
OWN_LINES = ("minilm-search: ", "next: ", "wrote ", "refreshed ", "timing trained students: ")
"""The beginnings of all lines that a command may write to stderr."""

RAW = "@raw@"
"""The placeholder in JSON for a snippet that is not JSON."""

SNIPPETS = (
    *(
        "2026-01-15",
        "2026-01-15T10:00:00Z",
        "0x1f",
        "0o17",
        "on",
        "~",
        "1:30",
        ".nan",
        ".inf",
        "-.inf",
        "1e999",
        "1e-999",
    ),
    *(
        "9" * 400,
        "-" + "9" * 5000,
        "1" * 20,
        "-1",
        "0",
        "1.5",
        "true",
        '""',
        '"\\0"',
        '"\\ud800"',
        '"\\u2028"',
        '"\\n"',
    ),
    *("[]", "{}", "[[]]", "[" * 2000 + "]" * 2000, "[" * 60 + "]" * 60, "{a: {b: {c: [1, {}]}}}", "{[a]: b}", "? "),
    *(
        "*a",
        "&a [*a]",
        "&a x",
        "!!binary aGk=",
        "!!set {a}",
        "!!python/object:os.system",
        "!x y",
        "<<: {}",
        "@",
        "`",
        "%",
    ),
    *('"unclosed', "'", "}", "]", "|", "# x", "\t", '"/dev/null"', '"/dev/null/x"', '"/proc"', '"."', '".."', '"./"'),
    *(
        '"a b"',
        '"package:"',
        '"package:os"',
        '"package:torch/../x"',
        '"s3://bucket"',
        '"nosuch://x"',
        '"://"',
        '"file://"',
    ),
    *(
        f'"{"n" * 252}"',
        f'"{"ü" * 300}"',
        f'"{"d/" * 3000}"',
        '"auto"',
        '"1%"',
        '"30M"',
        '"-5MB"',
        '"1e400ms"',
        '"nanms"',
    ),
)
"""Values of a YAML file, some valid and some not."""

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(alphabet="ab1 é:#-.,=\x00\x07\x1b\x85\u2028\ud800\n\t\U0001f600", max_size=8),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abé\ud800.", max_size=3), inner, max_size=3),
    max_leaves=5,
)
snippets = st.one_of(st.sampled_from(SNIPPETS), values.map(lambda value: json.dumps(value)))
"""Values as text of YAML, most of which is also JSON."""


@st.composite
def mutated(draw: Callable[..., Any], content: Any) -> str:
    """Returns settings or a result as text, with one or two values or keys changed."""
    changed = json.loads(json.dumps(content))
    raw: list[str] = []
    for _ in range(draw(st.integers(1, 2))):
        changed = _changed(draw, changed, raw)
    text = json.dumps(changed, indent=1)
    for snippet in raw:
        text = text.replace(f'"{RAW}"', snippet, 1)
    return text


def _changed(draw: Callable[..., Any], content: Any, raw: list[str]) -> Any:
    at = draw(st.sampled_from(_paths_in(content)))
    if not at:
        raw.append(draw(snippets))
        return RAW
    *above, last = at
    holder = content
    for key in above:
        holder = holder[key]
    match draw(st.sampled_from(("value", "value", "value", "drop", "name", "wrap"))):
        case "value":
            raw.append(draw(snippets))
            holder[last] = RAW
        case "drop":
            del holder[last]
        case "wrap":
            holder[last] = draw(st.sampled_from((lambda value: [value], lambda value: {"low": value}, str)))(
                holder[last]
            )
        case "name" if isinstance(holder, dict):
            holder[draw(st.sampled_from(("", "x", "0", "a.b", "é\ud800", "k" * 252)))] = holder.pop(last)
    return content


def _paths_in(content: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [above, *(path for key, value in inner for path in _paths_in(value, (*above, key)))]


@st.composite
def damaged(draw: Callable[..., Any], content: bytes) -> bytes:
    """Returns the bytes of a file after damage: cut short, overwritten, repeated in part, reordered or replaced."""
    size = len(content)
    at = draw(st.integers(0, size))
    match draw(st.sampled_from(("cut", "zeros", "bytes", "twice", "other", "lines"))):
        case "cut":
            return content[:at]
        case "zeros":
            return content[:at] + bytes(min(40, size - at))
        case "bytes":
            return content[:at] + draw(st.binary(min_size=1, max_size=4)) + content[at + draw(st.integers(0, 4)) :]
        case "twice":
            return content + content[at:]
        case "lines":
            lines = content.splitlines(keepends=True)
            return b"".join(draw(st.permutations(lines))[: draw(st.integers(0, len(lines)))])
        case _:
            return draw(
                st.sampled_from((b"", b"[]", b"null", b"3", b'"x"', b"{}", b"[[1]]", b"\xff\xfe", b"NaN", b"\0" * 9))
            )


@st.composite
def damages(draw: Callable[..., Any], files: dict[str, bytes]) -> tuple[str, bytes]:
    """Returns the name of one of the files, and its damaged content."""
    name = draw(st.sampled_from(sorted(files)))
    content = files[name]
    if draw(st.booleans()):
        return name, draw(damaged(content))
    match Path(name).suffix:
        case ".yaml":
            text = draw(mutated(yaml.safe_load(content)))
        case ".json":
            text = draw(mutated(json.loads(content)))
        case ".jsonl":
            lines = content.decode().splitlines()
            at = draw(st.integers(0, len(lines) - 1))
            lines[at] = " ".join(draw(mutated(json.loads(lines[at]))).splitlines())
            text = "\n".join(lines) + "\n"
        case _:
            return name, draw(damaged(content))
    return name, text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


def run(folder: Path, *arguments: str) -> Ended:
    """Runs the command line in this process and in a folder."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=how) for how in ("strict", "backslashreplace"))
    handler, argv, code = signal.getsignal(signal.SIGTERM), sys.argv, 0
    sys.argv = ["minilm-search", *arguments]
    try:
        with chdir(folder), redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = ended.code  # type: ignore[assignment]  # main always exits with a number
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
    for stream in (out, err):
        stream.flush()
        stream.seek(0)
    return Ended(code, out.read(), err.read())


def check_ends_well(folder: Path, *arguments: str) -> Ended:
    """Runs a command, and asserts that it ends with a documented exit code, its own messages and no traceback."""
    ended = run(folder, *arguments)
    details = f"$ minilm-search {shlex.join(arguments)}\n{ended.stderr[-4000:]}"
    tracebacks = [log.read_text(encoding="utf-8")[-4000:] for log in folder.rglob("driver.log")]
    assert not tracebacks, "\n".join([details, *tracebacks])
    assert ended.code in DOCUMENTED, f"exit code {ended.code}\n{details}"
    assert "Traceback" not in ended.stdout + ended.stderr, details
    lines = ended.stderr.split("\n")[:-1]
    assert all(line.startswith(OWN_LINES) for line in lines), details
    if ended.code == ExitCode.USAGE:
        assert len(lines) == len(set(lines)) >= 1, details
        assert all(line.startswith("minilm-search: ") for line in lines), details
    return ended


def cases(num_cases: int) -> Any:
    """Returns hypothesis's settings for a number of cases, which are the same in every run."""
    return settings(
        max_examples=num_cases,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )


def fast_and_long(fast: int, long: int) -> pytest.MarkDecorator:
    """Parametrizes a test with a small number of cases, and with a large one that is marked as long."""
    return pytest.mark.parametrize("num_cases", [fast, pytest.param(long, marks=pytest.mark.long)])


@contextmanager
def fresh_folder() -> Iterator[Path]:
    """Yields a new folder, which is also the one for temporary files such as the driver.log without a study."""
    previous = tempfile.tempdir
    with tempfile.TemporaryDirectory() as name:
        tempfile.tempdir = name
        try:
            yield Path(name)
        finally:
            tempfile.tempdir = previous
