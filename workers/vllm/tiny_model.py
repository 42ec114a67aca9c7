"""Makes a Llama-shaped model with random weights that a real vLLM serves on CPU.

Runs inside the vLLM environment, by path, because its tokenizer is trained with ``tokenizers``::

    .venv-vllm/bin/python workers/vllm/tiny_model.py OUT

0.8 million parameters, 1.6 MB, one second. The text it generates has no meaning. The same seed gives the same weights;
with the same Python, whose own sources the tokenizer is trained on, it gives the same bytes throughout.
"""

import argparse
import dataclasses
import json
import random
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
CORPUS_FILES = 120
# Uniform in +-WEIGHT_SPAN: a standard deviation of 0.05.
WEIGHT_SPAN = 0.0866
BFLOAT16_BYTES = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a Llama. ``hidden`` is a multiple of ``heads`` and ``heads`` of ``kv_heads``."""

    vocabulary: int = 4096
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    positions: int = 131_072

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def intermediate(self) -> int:
        """Width of the feed-forward layer."""
        return 2 * self.hidden


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """A weight matrix that is random, or a norm's vector of ones where it has one dimension."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of parameters."""
        product = 1
        for extent in self.shape:
            product *= extent
        return product


def command(out: Path, *, python: Path, seed: int = 0) -> list[str]:
    """The command line that makes the model in ``out`` with the interpreter of the vLLM environment."""
    return [str(python), __file__, str(out), "--seed", str(seed)]


def write_model(directory: Path, *, shape: Shape, seed: int) -> int:
    """Write everything that ``vllm serve`` reads into ``directory``; returns the number of parameters."""
    directory.mkdir(parents=True, exist_ok=True)
    train_tokenizer(directory / "tokenizer.json", vocabulary=shape.vocabulary)
    ids = token_ids((directory / "tokenizer.json").read_text(encoding="utf-8"))
    _write_json(directory / "tokenizer_config.json", tokenizer_config(shape))
    _write_json(directory / "config.json", model_config(shape, ids))
    _write_json(directory / "generation_config.json", {"eos_token_id": ids[TURN_END], "do_sample": False})
    weights = list(tensors(shape))
    write_safetensors(directory / "model.safetensors", weights, seed=seed)
    return sum(tensor.size for tensor in weights)


def train_tokenizer(path: Path, *, vocabulary: int) -> None:
    """Write a byte-level BPE tokenizer trained on the Python standard library's own files."""
    from tokenizers import (  # noqa: PLC0415 - only who makes a model needs it
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        processors,
        trainers,
    )

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(file) for file in corpus()], trainer)
    tokenizer.save(str(path))


def corpus() -> list[Path]:
    """The files that the tokenizer is trained on: on every machine with Python, and under a free licence."""
    return sorted(Path(dataclasses.__file__).parent.glob("*.py"))[:CORPUS_FILES]


def token_ids(tokenizer_json: str) -> dict[str, int]:
    """The id of every token in a ``tokenizer.json``, special ones included."""
    tokenizer = json.loads(tokenizer_json)
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    return {**tokenizer["model"]["vocab"], **special}


def tokenizer_config(shape: Shape) -> dict[str, object]:
    """Content of ``tokenizer_config.json``: special tokens and the chat template."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape.positions,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def model_config(shape: Shape, ids: Mapping[str, int]) -> dict[str, object]:
    """Content of ``config.json``."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "max_position_embeddings": shape.positions,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": ids[TURN_END],
        "pad_token_id": ids[END_OF_TEXT],
        "torch_dtype": "bfloat16",
        "initializer_range": 0.02,
    }


def tensors(shape: Shape) -> Iterator[Tensor]:
    """The weights of the model under the names that its loader asks for; input and output embeddings are one."""
    width, queries, keys = shape.hidden, shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    yield Tensor("model.embed_tokens.weight", (shape.vocabulary, width))
    yield Tensor("model.norm.weight", (width,))
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        yield Tensor(prefix + "input_layernorm.weight", (width,))
        yield Tensor(prefix + "post_attention_layernorm.weight", (width,))
        yield Tensor(prefix + "self_attn.q_proj.weight", (queries, width))
        yield Tensor(prefix + "self_attn.k_proj.weight", (keys, width))
        yield Tensor(prefix + "self_attn.v_proj.weight", (keys, width))
        yield Tensor(prefix + "self_attn.o_proj.weight", (width, queries))
        yield Tensor(prefix + "mlp.gate_proj.weight", (shape.intermediate, width))
        yield Tensor(prefix + "mlp.up_proj.weight", (shape.intermediate, width))
        yield Tensor(prefix + "mlp.down_proj.weight", (width, shape.intermediate))


def write_safetensors(path: Path, weights: Sequence[Tensor], *, seed: int) -> None:
    """Write the container: length of the header (64 bits, little-endian), JSON header, values one after the other."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in weights:
        start, end = end, end + BFLOAT16_BYTES * tensor.size
        header[tensor.name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    generator = random.Random(seed)  # noqa: S311 - weights, not secrets
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for tensor in weights:
            file.write(to_bfloat16(_values(tensor, generator)))


def to_bfloat16(values: Iterable[float]) -> bytes:
    """The upper halves of the 32-bit floats, little-endian: rounded towards zero."""
    floats = b"".join(struct.pack("<f", value) for value in values)
    halves = bytearray(len(floats) // 2)
    halves[0::2] = floats[2::4]
    halves[1::2] = floats[3::4]
    return bytes(halves)


def _values(tensor: Tensor, generator: random.Random) -> Iterator[float]:
    if len(tensor.shape) == 1:
        return iter([1.0] * tensor.size)
    return (generator.uniform(-WEIGHT_SPAN, WEIGHT_SPAN) for _ in range(tensor.size))


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a model of the default shape."""
    parser = argparse.ArgumentParser(description="Make a tiny model with random weights.")
    parser.add_argument("out", type=Path, metavar="OUT", help="directory to write the model into")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the weights (default: 0)")
    options = parser.parse_args(arguments)
    parameters = write_model(options.out, shape=Shape(), seed=options.seed)
    sys.stdout.write(f"{options.out}: {parameters / 1e6:.2f} million parameters\n")


if __name__ == "__main__":
    main()
