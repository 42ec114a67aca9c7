import json
import struct
from pathlib import Path
from typing import Any

import pytest

from workers.vllm.tiny_model import (
    CHAT_TEMPLATE,
    END_OF_TEXT,
    TURN_END,
    TURN_START,
    Shape,
    Tensor,
    command,
    corpus,
    model_config,
    tensors,
    to_bfloat16,
    token_ids,
    tokenizer_config,
    write_safetensors,
)

IDS = {END_OF_TEXT: 0, TURN_START: 1, TURN_END: 2}
SMALL = Shape(vocabulary=64, hidden=16, layers=1, heads=4, kv_heads=2)


def read_safetensors(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and values, read as the format's definition says."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert length % 8 == 0
    return json.loads(content[8 : 8 + length]), content[8 + length :]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, 0x0000), (1.0, 0x3F80), (-1.0, 0xBF80), (-2.5, 0xC020), (0.0078125, 0x3C00), (1.00390625, 0x3F80)],
)
def test_bfloat16_is_the_upper_half_of_a_float(value: float, expected: int) -> None:
    assert to_bfloat16([value]) == struct.pack("<H", expected)


def test_bfloat16_keeps_the_order() -> None:
    assert to_bfloat16([1.0, 0.0, -1.0]) == struct.pack("<3H", 0x3F80, 0, 0xBF80)


def test_safetensors_lists_every_tensor_without_gaps(tmp_path: Path) -> None:
    weights = [Tensor("a", (2, 3)), Tensor("norm", (4,)), Tensor("b", (5, 1))]
    write_safetensors(tmp_path / "model", weights, seed=0)

    header, values = read_safetensors(tmp_path / "model")
    assert header.pop("__metadata__") == {"format": "pt"}
    assert header == {
        "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
        "norm": {"dtype": "BF16", "shape": [4], "data_offsets": [12, 20]},
        "b": {"dtype": "BF16", "shape": [5, 1], "data_offsets": [20, 30]},
    }
    assert len(values) == 30
    assert values[12:20] == to_bfloat16([1.0] * 4)


def test_random_weights_are_small_and_differ(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model", [Tensor("a", (1000, 1))], seed=0)

    _, values = read_safetensors(tmp_path / "model")
    weights = [struct.unpack("<f", b"\0\0" + values[at : at + 2])[0] for at in range(0, len(values), 2)]
    assert max(map(abs, weights)) < 0.1
    assert min(weights) < -0.05
    assert max(weights) > 0.05
    assert len(set(weights)) > 300


def test_a_seed_gives_the_same_bytes_and_another_one_others(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        write_safetensors(tmp_path / name, list(tensors(SMALL)), seed=seed)

    one, again, two = ((tmp_path / name).read_bytes() for name in ("one", "again", "two"))
    assert one == again
    assert one != two


def test_tensors_have_the_shapes_of_the_configuration() -> None:
    shapes = {tensor.name: tensor.shape for tensor in tensors(SMALL)}
    config: dict[str, Any] = model_config(SMALL, IDS)

    width, head = config["hidden_size"], config["head_dim"]
    assert shapes["model.embed_tokens.weight"] == (config["vocab_size"], width)
    assert shapes["model.norm.weight"] == (width,)
    layer = "model.layers.0."
    assert shapes[layer + "self_attn.q_proj.weight"] == (config["num_attention_heads"] * head, width)
    assert shapes[layer + "self_attn.k_proj.weight"] == (config["num_key_value_heads"] * head, width)
    assert shapes[layer + "self_attn.v_proj.weight"] == (config["num_key_value_heads"] * head, width)
    assert shapes[layer + "self_attn.o_proj.weight"] == (width, config["num_attention_heads"] * head)
    assert shapes[layer + "mlp.gate_proj.weight"] == (config["intermediate_size"], width)
    assert shapes[layer + "mlp.up_proj.weight"] == (config["intermediate_size"], width)
    assert shapes[layer + "mlp.down_proj.weight"] == (width, config["intermediate_size"])
    assert shapes[layer + "input_layernorm.weight"] == shapes[layer + "post_attention_layernorm.weight"] == (width,)


def test_every_layer_has_its_tensors() -> None:
    names = [tensor.name for tensor in tensors(Shape(layers=3))]

    assert len(names) == len(set(names)) == 2 + 3 * 9


def test_the_default_model_is_tiny() -> None:
    assert sum(tensor.size for tensor in tensors(Shape())) < 1_000_000


def test_the_end_of_a_turn_ends_the_text() -> None:
    assert model_config(SMALL, IDS)["eos_token_id"] == IDS[TURN_END]
    assert tokenizer_config(SMALL)["eos_token"] == TURN_END


def test_the_chat_template_uses_the_special_tokens() -> None:
    assert TURN_START in CHAT_TEMPLATE
    assert TURN_END in CHAT_TEMPLATE
    assert tokenizer_config(SMALL)["chat_template"] == CHAT_TEMPLATE


def test_token_ids_include_the_special_tokens() -> None:
    tokenizer = {"model": {"vocab": {"a": 3, "b": 4}}, "added_tokens": [{"id": 2, "content": TURN_END}]}

    assert token_ids(json.dumps(tokenizer)) == {"a": 3, "b": 4, TURN_END: 2}


def test_the_corpus_is_there_and_in_a_fixed_order() -> None:
    files = corpus()

    assert len(files) > 50
    assert files == sorted(files)
    assert all(file.is_file() for file in files)


def test_the_command_names_an_interpreter_and_this_file() -> None:
    python, script, *arguments = command(Path("/out"), python=Path("/venv/bin/python"), seed=3)

    assert python == "/venv/bin/python"
    assert Path(script).name == "tiny_model.py"
    assert Path(script).is_file()
    assert arguments == ["/out", "--seed", "3"]
