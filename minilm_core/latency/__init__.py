"""The latency of encoders on a device: measurements, the table fitted to them, and the calibration that makes it.

Nothing is trained here, and nothing but the calibration imports torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
