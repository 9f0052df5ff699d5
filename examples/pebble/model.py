"""A Llama-shaped network whose early layers can answer too; the names of its parameters are Hugging Face's.

Shapes: B batch, T tokens, E hidden size, V vocabulary, H heads, K kv heads, D head size.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The dimensions of one model, under the names that config.json gives them."""

    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 8
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    vocab_size: int = 4096
    max_position_embeddings: int = 1024
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


SHAPES = {
    "pebble": Shape(),
    # Shallow and wide: a drafter pays per layer, not per weight.
    "pebble-mini": Shape(num_hidden_layers=2),
}


class Norm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        key_value_size = shape.num_key_value_heads * shape.head_dim
        self.q_proj = linear(shape.hidden_size, shape.hidden_size)
        self.k_proj = linear(shape.hidden_size, key_value_size)
        self.v_proj = linear(shape.hidden_size, key_value_size)
        self.o_proj = linear(shape.hidden_size, shape.hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        groups = q.shape[1] // k.shape[1]
        k, v = rotate(k, cos, sin).repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = linear(shape.hidden_size, shape.intermediate_size)
        self.up_proj = linear(shape.hidden_size, shape.intermediate_size)
        self.down_proj = linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, keep: Tensor) -> Tensor:
        """Return the layer's output [B, T, E]; a row with `keep` [B, 1, 1] = 0 passes through unchanged."""
        x = x + keep * self.self_attn(self.input_layernorm(x), cos, sin)
        return x + keep * self.mlp(self.post_attention_layernorm(x))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Pebble(nn.Module):
    """The network up to the final norm; the head is the transposed embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = Norm(shape.hidden_size, shape.rms_norm_eps)
        residual_scale = 0.02 / math.sqrt(2 * shape.num_hidden_layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                is_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=residual_scale if is_residual else 0.02)

    def start_from(self, teacher: Pebble) -> None:
        """Take over the embedding, the norm and the first layers of a deeper model of the same width."""
        mine = self.state_dict()
        self.load_state_dict({name: value for name, value in teacher.state_dict().items() if name in mine})

    def forward(self, token_ids: Tensor, exits: tuple[int, ...], keep: Tensor) -> tuple[Tensor, ...]:
        """Return the normed hidden rows [B, T, E] after each number of layers in `exits`.

        `keep` [L, B, 1, 1] is 0 where a sample skips a layer, else 1.
        """
        shape, device = self.shape, token_ids.device
        x = self.embed_tokens(token_ids).to(keep.dtype)
        frequency = shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2, device=device) / shape.head_dim)
        angle = torch.outer(torch.arange(token_ids.shape[1], device=device), frequency)
        cos, sin = angle.cos().to(keep.dtype), angle.sin().to(keep.dtype)
        outputs = []
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, keep[index])
            if index + 1 in exits:
                outputs.append(self.norm(x))
        return tuple(outputs)


def save_checkpoint(model: Pebble, folder: Path) -> None:
    """Write config.json and bfloat16 safetensors in Hugging Face's layout."""
    shape = asdict(model.shape)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **shape,
        "head_dim": model.shape.head_dim,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {f"model.{name}": value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load_checkpoint(folder: Path) -> Pebble:
    """Return the model that `save_checkpoint` wrote, in float32."""
    config = json.loads((folder / "config.json").read_text())
    model = Pebble(Shape(**{name: config[name] for name in Shape.__dataclass_fields__}))
    tensors = load_file(folder / "model.safetensors")
    model.load_state_dict({name.removeprefix("model."): value.float() for name, value in tensors.items()})
    return model
