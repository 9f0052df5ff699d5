"""Adapters of LoRA, trained and saved as peft does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
import torch
import transformers


def trained(checkpoint: Path, **config: Any) -> Any:
    """A PEFT model on the checkpoint, every weight of its adapter random."""
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT tells what it decides about tied and transposed matrices
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, init_lora_weights=False, **config))
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            is_factor = "lora_A" in name or "lora_B" in name or "lora_embedding" in name
            torch.nn.init.normal_(parameter, std=0.3) if is_factor else parameter.data.mul_(1.1)
    return adapted.eval()


def saved(adapted: Any, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(folder)
    return folder
