"""The latency of encoders on a device: the table that predicts it, and the calibration that measures the table.

Nothing is trained here, and only the calibration itself imports torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
