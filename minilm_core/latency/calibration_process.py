"""Calibrates a device in a fresh process, whose threads and memory no other work shares. The caller needs no torch.

Run as a module, this file is that process. It reads a request as JSON from stdin and prints lines of JSON on stdout:
one for each progress, and a last one with the table or with the message of a UserError.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from minilm_core.errors import UserError, first_line
from minilm_core.fresh_process import Message, answer_on_stdout, answering, write_message
from minilm_core.latency.table import LatencyTable
from minilm_core.latency.target import LatencyTarget, target_of
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
    what = "the calibration of latency"
    with answering("minilm_core.latency.calibration_process", request.to_json(), what) as messages:
        for message in messages:
            if "table" in message:
                return LatencyTable.from_dict(message["table"], source="the calibration")
            progress(message["stage"], message["fraction"])
    raise AssertionError("a calibration that ends well has answered with its table")


def answer(request_json: str, out: TextIO) -> None:
    """Runs a calibration and writes its progress and its table, or the message of a UserError, as lines of JSON."""
    from transformers import AutoConfig

    from minilm_core.latency.calibration import calibrate

    def write(message: Message) -> None:
        write_message(message, out)

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


if __name__ == "__main__":
    answer_on_stdout(answer)
