"""A latency table with made-up round figures."""

from minilm_core.latency.measurements import Measurement, Width
from minilm_core.latency.table import Contention, LatencyTable
from minilm_core.latency.target import DeviceFingerprint, LatencyTarget
from minilm_core.models.architecture import StudentArchitecture

SHORT = LatencyTarget(sequence_length=16)


def table_of(*architectures: StudentArchitecture, ms_per_layer: float, target: LatencyTarget = SHORT) -> LatencyTable:
    """Returns a table for the architectures' widths in which the latency is the number of layers times a constant."""
    return LatencyTable(
        target=target,
        fingerprint=DeviceFingerprint(processor="some processor", isa=("avx2",), torch="2.13.0", python="3.11.7"),
        measured_at="2026-11-22T12:00:00+00:00",
        contention=Contention(num_cores=2, busy_cores=0.0),
        fitted=tuple(
            Measurement(
                architecture=width.with_layers(n), latency_ms=n * ms_per_layer, round_medians_ms=(n * ms_per_layer,) * 2
            )
            for width in dict.fromkeys(map(Width.of, architectures))
            for n in (1, 4)
        ),
        held_out=(Measurement(architecture=architectures[0], latency_ms=1.0, round_medians_ms=(1.0, 1.0)),),
    )
