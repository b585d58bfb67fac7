"""Whether the packages of the extra `onnx` are installed. No torch."""

from importlib.util import find_spec

from minilm_core.errors import UserError


def require_onnx() -> None:
    """Checks that the packages of the extra are installed.

    Raises:
        UserError: if one is missing, with the command that installs it.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(module) is None:
            raise UserError(missing_package(module))


def missing_package(module: str) -> str:
    """Returns what is said where a package of the extra is missing."""
    return f"ONNX needs the package {module}, which is not installed: pip install minilm-search[onnx]"
