import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workers.vllm.tiny_lora import RANK, shape_of, tensors, write_adapter
from workers.vllm.tiny_model import Shape, model_config

IDS = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
SMALL = Shape(vocabulary=64, hidden=16, layers=3, heads=4, kv_heads=2, positions=512)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's directory, as far as an adapter has to know it."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(model_config(SMALL, IDS)))
    return directory


def header(adapter: Path) -> dict[str, Any]:
    content = (adapter / "adapter_model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    found: dict[str, Any] = json.loads(content[8 : 8 + length])
    return found


def test_the_shape_is_that_of_the_model(model: Path) -> None:
    assert shape_of(model) == SMALL


def test_factors_fit_the_projections_of_every_layer() -> None:
    shapes = {tensor.name: tensor.shape for tensor in tensors(SMALL)}

    assert len(shapes) == 3 * 2 * 2
    layer = "base_model.model.model.layers.2.self_attn."
    assert shapes[layer + "q_proj.lora_A.weight"] == shapes[layer + "v_proj.lora_A.weight"] == (RANK, 16)
    assert shapes[layer + "q_proj.lora_B.weight"] == (16, RANK)
    assert shapes[layer + "v_proj.lora_B.weight"] == (8, RANK)


def test_the_configuration_names_what_the_weights_are_for(tmp_path: Path) -> None:
    write_adapter(tmp_path, shape=SMALL, base_model="tiny", seed=1)

    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["base_model_name_or_path"]) == ("LORA", RANK, "tiny")
    written = {name.split(".")[6] for name in header(tmp_path) if name != "__metadata__"}
    assert written == set(config["target_modules"])


def test_a_seed_gives_the_same_weights_and_another_one_others(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        write_adapter(tmp_path / name, shape=SMALL, base_model="tiny", seed=seed)

    one, again, two = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "again", "two"))
    assert one == again
    assert one != two


def test_the_command_makes_one_for_a_model(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    done = subprocess.run(
        [sys.executable, "-m", "workers.vllm.tiny_lora", model, out], capture_output=True, text=True, check=True
    )

    assert done.stdout == f"{out}\n"
    assert header(out)["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"]["shape"] == [RANK, 16]
