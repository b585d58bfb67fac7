"""What PyTorch lacks or is slow at: relation losses without their maps in memory, and dropout on a CPU.

Nothing here knows what a relation or a student is: tensors come in and go out.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
