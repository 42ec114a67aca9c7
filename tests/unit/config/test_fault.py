from extproc.config.fault import MAX_UNKNOWN_KEYS, Fault, bare, closest, did_you_mean, shown, unknown_keys


def test_a_fault_reads_as_path_and_message() -> None:
    assert str(Fault("server.tls", "is wrong")) == "server.tls: is wrong"


def test_guesses_only_what_is_close() -> None:
    assert closest("rotate_after_stream", ["rotate_after_streams", "tls"]) == "rotate_after_streams"
    assert closest("zebra", ["rotate_after_streams", "tls"]) is None
    assert closest("x" * 1_000_000, ["x" * 63]) is None


def test_asks_only_with_a_guess() -> None:
    assert did_you_mean("tls") == " - did you mean `tls`?"
    assert did_you_mean(None) == ""


def test_shows_values_short_and_on_one_line() -> None:
    assert shown("a\nb") == r"'a\nb'"
    assert shown("x" * 100) == f"'{'x' * 64}'..."
    assert [shown(value) for value in (None, True, 1, 1.5, [1], {"a": 1})] == [
        "nothing",
        "true",
        "1",
        "1.5",
        "a list",
        "a mapping",
    ]
    assert shown(10**5000) == "a larger one"
    assert bare("a\x1b[0m") == r"a\x1b[0m"


def test_unknown_keys_have_a_hint_from_here_or_from_elsewhere() -> None:
    faults = unknown_keys("server", {"tsl": 1, "policy": 2, "tls": 3}, ["tls"], elsewhere={"policy": "routing.policy"})
    assert [str(fault) for fault in faults] == [
        "server.tsl: unknown key - did you mean `tls`?",
        "server.policy: unknown key - did you mean `routing.policy`?",
    ]


def test_many_unknown_keys_are_counted_not_listed() -> None:
    faults = unknown_keys("", {f"key{n}": n for n in range(1000)}, [])
    assert len(faults) == MAX_UNKNOWN_KEYS + 1
    assert str(faults[-1]) == f"the file: {1000 - MAX_UNKNOWN_KEYS} more unknown keys"
