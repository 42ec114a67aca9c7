"""Makes a random LoRA adapter for the model of ``tiny_model.py``: ``python -m workers.vllm.tiny_lora MODEL_DIR OUT``.

50 kB. Needs no library but Python's own. What it adds to the model has no meaning; to vLLM it is an adapter like any
other, with prompts of its own in the prefix cache.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from workers.vllm.tiny_model import Shape, Tensor, write_safetensors

RANK = 8
ALPHA = 16
TARGETS = ("q_proj", "v_proj")


def write_adapter(directory: Path, *, shape: Shape, base_model: str, seed: int) -> None:
    """Write everything that ``vllm serve --lora-modules NAME=DIRECTORY`` reads."""
    directory.mkdir(parents=True, exist_ok=True)
    config = json.dumps(adapter_config(base_model), indent=1)
    (directory / "adapter_config.json").write_text(f"{config}\n", encoding="utf-8")
    write_safetensors(directory / "adapter_model.safetensors", list(tensors(shape)), seed=seed)


def adapter_config(base_model: str) -> dict[str, object]:
    """Content of ``adapter_config.json``."""
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model,
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": list(TARGETS),
        "lora_dropout": 0.0,
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }


def tensors(shape: Shape) -> Iterator[Tensor]:
    """The two factors of what is added to the queries' and the values' projection of every layer."""
    widths = (shape.heads * shape.head_size, shape.kv_heads * shape.head_size)
    for layer in range(shape.layers):
        for target, width in zip(TARGETS, widths, strict=True):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{target}."
            yield Tensor(prefix + "lora_A.weight", (RANK, shape.hidden))
            yield Tensor(prefix + "lora_B.weight", (width, RANK))


def shape_of(model: Path) -> Shape:
    """The sizes that a model's ``config.json`` tells."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return Shape(
        vocabulary=config["vocab_size"],
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        positions=config["max_position_embeddings"],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write an adapter for a model that is there."""
    parser = argparse.ArgumentParser(
        prog="python -m workers.vllm.tiny_lora", description="Make a random LoRA adapter for a tiny model."
    )
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", help="the model that it is for")
    parser.add_argument("out", type=Path, metavar="OUT", help="directory to write the adapter into")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the weights (default: 1)")
    options = parser.parse_args(arguments)
    write_adapter(options.out, shape=shape_of(options.model), base_model=str(options.model), seed=options.seed)
    sys.stdout.write(f"{options.out}\n")


if __name__ == "__main__":
    main()
