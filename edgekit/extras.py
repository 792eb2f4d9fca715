"""Which package belongs to which extra of edgekit, and the one command that installs what is missing."""

from collections.abc import Mapping
from types import MappingProxyType

from edgekit_runtime.errors import MissingError

__all__ = ["MODULE_EXTRAS", "install_command", "missing_module"]

# Import names, because that is what an ImportError knows.
MODULE_EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("onnxruntime",), "onnx"),
        **dict.fromkeys(("ai_edge_litert",), "tflite"),
        **dict.fromkeys(("jinja2",), "report"),
        **dict.fromkeys(("cryptography",), "sign"),
        **dict.fromkeys(
            (
                *(
                    "PIL",
                    "ai_edge_quantizer",
                    "click",
                    "huggingface_hub",
                    "litert_torch",
                    "onnx",
                    "onnxscript",
                ),
                *("pyarrow", "pydantic", "rich", "safetensors", "sklearn", "tokenizers", "torch"),
                *("torch_pruning", "transformers", "yaml"),
            ),
            "build",
        ),
    }
)


def install_command(extra: str) -> str:
    """Give what to type to install an extra."""
    return f"pip install 'edgekit[{extra}]'"


def missing_module(name: str) -> MissingError | None:
    """Turn the name of a module that could not be found into the error that says how to get it; None if not ours."""
    top = name.partition(".")[0]
    extra = MODULE_EXTRAS.get(top)
    if extra is None:
        return None
    return MissingError("E0612", f"the package '{top}' is not installed", fix=install_command(extra))
