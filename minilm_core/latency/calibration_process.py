"""Calibrates a device in a fresh process, whose threads and memory no other work shares. The caller needs no torch.

Run as a module, this file is that process. It reads a request as JSON from stdin and prints lines of JSON on stdout:
one for each progress, and a last one with the table or with the message of a UserError.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from minilm_core.errors import UserError, first_line
from minilm_core.fresh_process import import_path, module_command, results_on_stdout
from minilm_core.latency.table import LatencyTable, LatencyTarget, target_of
from minilm_core.models.architecture import StudentArchitecture

Progress = Callable[[str, float], None]
"""Receives what is being measured and the fraction done, in [0, 1]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRequest:
    """The arguments of a calibration, in a form that another process can read."""

    architectures: tuple[StudentArchitecture, ...]
    base_config: Mapping[str, Any]
    """The config.json that the sizes of an architecture are put into."""
    target: LatencyTarget
    seed: int = 0

    def to_json(self) -> str:
        """Returns the request as JSON."""
        return json.dumps({**asdict(self), "base_config": dict(self.base_config)})

    @classmethod
    def from_json(cls, text: str) -> "CalibrationRequest":
        """Reads what `to_json` wrote."""
        content = json.loads(text)
        return cls(
            architectures=tuple(StudentArchitecture(**sizes) for sizes in content["architectures"]),
            base_config=content["base_config"],
            target=target_of(content["target"]),
            seed=content["seed"],
        )


def calibrate_in_fresh_process(request: CalibrationRequest, progress: Progress) -> LatencyTable:
    """Measures the latency table that a request asks for; what the process prints on stderr is shown.

    Raises:
        UserError: if the machine lacks the device, the encoders do not fit the request, or the process fails.
    """
    command = module_command("minilm_core.latency.calibration_process")
    environment = {**os.environ, "PYTHONPATH": import_path()}
    table: LatencyTable | None = None
    with _running(command, environment) as child:
        assert child.stdin is not None, "stdin is a pipe"
        assert child.stdout is not None, "stdout is a pipe"
        # A process that has died already is reported by its exit code.
        with contextlib.suppress(BrokenPipeError), child.stdin:
            child.stdin.write(request.to_json())
        for line in child.stdout:
            message = json.loads(line)
            if "error" in message:
                raise UserError(message["error"])
            if "table" in message:
                table = LatencyTable.from_dict(message["table"], source="the calibration")
            else:
                progress(message["stage"], message["fraction"])
    if child.returncode or table is None:
        raise UserError(
            f"the calibration of latency must end with exit code 0, got {child.returncode}; "
            "what it printed on stderr names the cause"
        )
    return table


@contextlib.contextmanager
def _running(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Runs a process with pipes for stdin and stdout, and ends it if the block fails."""
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        except BaseException:
            child.kill()
            raise


def answer(request_json: str, out: TextIO) -> None:
    """Runs a calibration and writes its progress and its table, or the message of a UserError, as lines of JSON."""
    from transformers import AutoConfig

    from minilm_core.latency.calibration import calibrate

    def write(message: Mapping[str, Any]) -> None:
        print(json.dumps(message), file=out, flush=True)

    request = CalibrationRequest.from_json(request_json)
    try:
        table = calibrate(
            request.architectures,
            AutoConfig.for_model(**request.base_config),
            request.target,
            seed=request.seed,
            progress=lambda stage, fraction: write({"stage": stage, "fraction": fraction}),
        )
    except UserError as error:
        write({"error": str(error)})
    # A configuration of the teacher that transformers cannot build, such as an unknown activation, raises anything.
    except Exception as error:
        cause = f"{type(error).__name__}: {first_line(error)}"
        write({"error": f"a calibration must be able to build and time the space's encoders, got {cause}"})
    else:
        write({"table": table.to_dict()})


def main() -> None:
    """Reads a request from stdin and writes the answer to stdout."""
    with results_on_stdout() as results:
        try:
            answer(sys.stdin.read(), results)
        except KeyboardInterrupt:
            # The parent was interrupted too, and reports it.
            sys.exit(130)


if __name__ == "__main__":
    main()
