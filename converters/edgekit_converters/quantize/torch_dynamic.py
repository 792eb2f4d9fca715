"""PyTorch's own dynamic int8 of a student: what the framework gives without a plan, to compare ours with."""

import copy
import io
import warnings

import torch
from torch import nn

__all__ = ["quantize_torch_dynamic", "serialised_bytes"]


def quantize_torch_dynamic(module: nn.Module) -> nn.Module:
    """Give a copy with int8 weights in linear and recurrent layers and 8-bit embeddings; all else stays float.

    Linear and recurrent layers have one scale per output channel and measure their input's grid at each run, with
    7 bits on x86 (``reduce_range``), which is PyTorch's own guard against 16-bit sums. It maps no convolution.

    Args:
        module: In evaluation mode.

    Source:
        torch.ao.quantization.quantize_dynamic of PyTorch 2.13. It is deprecated there, and torchao, its successor, has
        no recurrent layers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, see above
        from torch.ao.quantization import (
            float_qparams_weight_only_qconfig,
            per_channel_dynamic_qconfig,
            quantize_dynamic,
        )

        layers = dict.fromkeys((nn.Linear, nn.LSTM, nn.GRU), per_channel_dynamic_qconfig)
        plan = {**layers, nn.Embedding: float_qparams_weight_only_qconfig}
        changed = quantize_dynamic(  # type: ignore[no-untyped-call]
            copy.deepcopy(module), plan, dtype=torch.qint8, inplace=True
        )
    assert isinstance(changed, nn.Module)
    return changed


def serialised_bytes(module: nn.Module) -> int:
    """Give the size of a module's weights as ``torch.save`` writes them, in bytes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # packed weights are written as typed storages, which is deprecated
        torch.save(module.state_dict(), buffer)
    return buffer.tell()
