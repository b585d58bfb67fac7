"""Whether the packages of the extras `onnx` and `openvino` are installed. No torch."""

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


def require_openvino() -> None:
    """Checks that the package of the extra `openvino` is installed.

    Raises:
        UserError: if it is missing, with the command that installs it.
    """
    if find_spec("openvino") is None:
        raise UserError(missing_package("openvino"))


def missing_package(module: str) -> str:
    """Returns what is said where a package of an extra is missing."""
    runtime, extra = ("OpenVINO", "openvino") if module == "openvino" else ("ONNX", "onnx")
    return f"{runtime} needs the package {module}, which is not installed: pip install minilm-search[{extra}]"
