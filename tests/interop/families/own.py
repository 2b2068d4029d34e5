"""Models that transformers has no class for, in torch, as their authors define them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn


class _Rotation(nn.Module):
    """Halves of heads (batch, tokens, heads, dim) turn together."""

    def __init__(self, base: float) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        speeds = self.base ** (-torch.arange(half) / half)
        angles = (torch.arange(x.shape[1])[:, None] * speeds)[:, None, :]
        first, second = x[..., :half], x[..., half:]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class _Attention(nn.Module):
    def __init__(self, c: Mapping[str, Any]) -> None:
        super().__init__()
        self.heads = c["n_head"]
        self.Wqkv = nn.Linear(c["n_embd"], 3 * c["n_embd"])
        self.out_proj = nn.Linear(c["n_embd"], c["n_embd"])
        self.rotation = _Rotation(c["rotary_emb_base"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.Wqkv(x).view(*x.shape[:2], 3, self.heads, -1).unbind(2)
        q, k = self.rotation(q), self.rotation(k)
        scores = torch.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
        return self.out_proj(torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, c: Mapping[str, Any]) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(c["n_embd"], c["n_inner"]), nn.Linear(c["n_inner"], c["n_embd"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class _Matrices(nn.Module):
    """The rows of all experts behind each other, in both matrices those of the hidden values."""

    def __init__(self, c: Mapping[str, Any]) -> None:
        super().__init__()
        self.w1, self.w2 = (nn.Parameter(torch.zeros(c["num_experts"] * c["n_inner"], c["n_embd"])) for _ in range(2))


class _Experts(nn.Module):
    """All experts are computed for all tokens. The bias is added once, to their weighted sum."""

    def __init__(self, c: Mapping[str, Any]) -> None:
        super().__init__()
        self.count = c["num_experts"]
        self.mlp = _Matrices(c)
        self.bias = nn.Parameter(torch.zeros(c["n_embd"]))

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        first, second = (each.view(self.count, -1, x.shape[-1]) for each in (self.mlp.w1, self.mlp.w2))
        hidden = nn.functional.gelu(torch.einsum("btn,ehn->bteh", x, first))
        return torch.einsum("bteh,ehn,bte->btn", hidden, second, weights) + self.bias


class _Router(nn.Module):
    """Weights of all experts: of the best few their probabilities, of others 0."""

    def __init__(self, c: Mapping[str, Any]) -> None:
        super().__init__()
        self.used = c["moe_top_k"]
        self.layer = nn.Linear(c["n_embd"], c["num_experts"], bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shares = self.layer(x).softmax(-1)
        best = shares.topk(self.used, -1)
        return torch.zeros_like(shares).scatter(-1, best.indices, best.values)


class _Mixture(nn.Module):
    def __init__(self, c: Mapping[str, Any]) -> None:
        super().__init__()
        self.router, self.experts = _Router(c), _Experts(c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.experts(x, self.router(x))


class _Layer(nn.Module):
    def __init__(self, c: Mapping[str, Any], index: int) -> None:
        super().__init__()
        self.attn = _Attention(c)
        self.mlp = _Mixture(c) if index % c["moe_every_n_layers"] == 1 else _FeedForward(c)
        self.norm1, self.norm2 = (nn.LayerNorm(c["n_embd"], c["layer_norm_epsilon"]) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


class NomicBertMoe(nn.Module):
    """nomic-embed-text-v2-moe (Nussbaum and Duderstadt 2025, arXiv:2502.07972)."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = {"architectures": ["NomicBertModel"], "model_type": "nomic_bert", **config}
        width = config["n_embd"]
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config["vocab_size"], width),
                "token_type_embeddings": nn.Embedding(config["type_vocab_size"], width),
            }
        )
        self.emb_ln = nn.LayerNorm(width, config["layer_norm_epsilon"])
        layers = nn.ModuleList(_Layer(config, index) for index in range(config["n_layer"]))
        self.encoder = nn.ModuleDict({"layers": layers})

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embeddings["word_embeddings"](ids) + self.embeddings["token_type_embeddings"](torch.zeros_like(ids))
        x = self.emb_ln(x)
        for layer in self.encoder["layers"]:
            x = layer(x)
        return x

    def save_pretrained(self, folder: Path) -> None:
        _save(self, self.config, folder)


class MiniCPM(nn.Module):
    """MiniCPM (Hu et al. 2024, arXiv:2404.06395) is Granite with multipliers that are said otherwise."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        from transformers import GraniteConfig, GraniteForCausalLM

        super().__init__()
        self.config = {"architectures": ["MiniCPMForCausalLM"], "model_type": "minicpm", **config}
        scales = {
            "embedding_multiplier": config["scale_emb"],
            "residual_multiplier": config["scale_depth"] / config["num_hidden_layers"] ** 0.5,
            "logits_scaling": config["hidden_size"] / config["dim_model_base"],
            "attention_multiplier": (config["hidden_size"] / config["num_attention_heads"]) ** -0.5,
        }
        shared = {key: config[key] for key in config if not key.startswith(("scale_", "dim_model"))}
        granite = GraniteForCausalLM._from_config(GraniteConfig(**shared, **scales), attn_implementation="eager")
        self.model, self.lm_head = granite.model, granite.lm_head
        self._granite = (granite,)  # not a module of this one

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._granite[0](ids, use_cache=False).logits
        return logits

    def save_pretrained(self, folder: Path) -> None:
        _save(self, self.config, folder)


def _save(model: nn.Module, config: Mapping[str, Any], folder: Path) -> None:
    save_file({name: each.contiguous() for name, each in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2))


#: Row -> the class of its model.
OWN: Mapping[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "MiniCPMForCausalLM": MiniCPM,
    "NomicBertModel/experts": NomicBertMoe,
    "NomicBertModel/experts without bias": NomicBertMoe,
}


def computed(name: str, folder: Path, ids: list[int]) -> Any:
    """What the model of a row gives for a folder. RuntimeError where it lacks a tensor, or has one too many."""
    said = json.loads((folder / "config.json").read_text())
    model = OWN[name]({key: said[key] for key in said if key not in ("architectures", "auto_map", "model_type")})
    tensors: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    model.load_state_dict(tensors, strict=True)
    with torch.no_grad():
        return model.float().eval()(torch.tensor([ids]))[0].numpy()
