"""The model that every peer quantises: all-MiniLM-L6-v2 without pooling. Needs torch and transformers alone."""

from pathlib import Path

import torch

__all__ = ["Encoder"]


class Encoder(torch.nn.Module):
    """The BERT encoder alone: ids and mask, (1, L), to hidden states, (1, L, 384). Pooling is left to the caller."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import BertModel

        self.bert = BertModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]
        return hidden
