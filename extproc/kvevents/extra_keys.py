"""What else than tokens sets an engine's blocks apart: adapters, salts, media.

vLLM writes for each block nothing or a list: the name of the adapter, then media as pairs of identifier and place, then
the cache salt, which the first block of a prompt alone has, then digests of prompt embeddings. Some versions tag each
value with its source: ``("lora", name, path)``, ``("mm", identifier, place)``, ``("cache_salt", salt)``.
"""

from collections.abc import Sequence

_LORA_PARTS = (2, 3)
_SALT_PARTS = 2


def read_extra_keys(
    extra_keys: Sequence[object], *, blocks: int, lora_name: str | None, is_start: bool
) -> tuple[str, int]:
    """Return the cache salt, empty where there is none, and how many leading blocks have nothing besides.

    ``is_start``: the first of the blocks is the first one of a prompt. Blocks with media, or with what is not
    understood, are not placed, nor is any that follows them.
    """
    if len(extra_keys) != blocks:
        return "", 0
    salt = ""
    for number, keys in enumerate(extra_keys):
        if not keys:
            continue
        if not isinstance(keys, list | tuple):
            return salt, number
        found = _read_block(keys, lora_name, is_start=is_start and not number)
        if found is None:
            return salt, number
        salt = salt or found
    return salt, blocks


def _read_block(keys: Sequence[object], lora_name: str | None, *, is_start: bool) -> str | None:
    """Return the salt of one block, empty for none; None where there is anything else."""
    rest = keys[1:] if lora_name and _is_lora(keys[0], lora_name) else keys
    if not rest:
        return ""
    if len(rest) > 1 or not is_start:
        return None
    salt = rest[0]
    if isinstance(salt, list | tuple) and len(salt) == _SALT_PARTS and salt[0] == "cache_salt":
        salt = salt[1]
    return salt if isinstance(salt, str) else None


def _is_lora(key: object, name: str) -> bool:
    if isinstance(key, list | tuple):
        return len(key) in _LORA_PARTS and key[0] == "lora" and key[1] == name
    return key == name
