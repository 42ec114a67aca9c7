"""Continuous batching: which requests share a step, how long it takes, and what it does to the cache.

Each step generates one token for every request that has its prompt computed, and computes up to
``max_num_batched_tokens`` tokens in all: those first, then the rest of prompts under way, then prompts that wait, in
the order in which they came, as far as there are seats (``max_num_seqs``) and blocks. A prompt's last chunk gives the
first token.
Where a generating request needs a block and none is free, the request that was let in last is preempted: it loses its
blocks and waits, before all others, to be computed again.

Steps that only generate differ by what can be said in advance, so any number of them until the next change is one
*stretch*, whose end can be computed. A request that arrives meanwhile ends it with the step under way. Time per request
is therefore independent of the length of its answer.

Not modelled: speculative decoding, priorities, data parallel ranks, encoder inputs, overlap of scheduling and compute.
"""

import copy
import heapq
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from math import inf, sqrt

from workers.engine.block_pool import BlockPool
from workers.engine.device import Device
from workers.engine.events import CacheEvent, Cleared, Removed, Stored
from workers.engine.profile import Profile
from workers.engine.request import Request
from workers.engine.state import Counters, Shown

Plan = list[tuple[int, int, Request]]
"""A heap of step number, ticket and request: what becomes due before that step."""


class Engine:
    """One engine. Times are seconds on the caller's clock and never go back.

    Call :meth:`advance` when it is :attr:`due`. With ``keep_events`` what happens to the cache gathers in
    :attr:`events` until the caller takes it away. Engines that share a ``device`` slow each other down.
    """

    def __init__(self, profile: Profile, *, device: Device | None = None, keep_events: bool = False) -> None:
        self.profile = profile
        self.events: list[CacheEvent] = []
        self.shown = Shown()
        self.due = inf
        self._device = device
        self._keep_events = keep_events
        self._pool = BlockPool(profile.num_blocks, on_evicted=self._evicted)
        self._counters = Counters()
        self._waiting: deque[Request] = deque()
        self._running: dict[Request, None] = {}
        self._prefilling: list[Request] = []
        self._chunks: list[tuple[Request, int]] = []
        self._aborted: list[Request] = []
        self._loras: OrderedDict[str, None] = OrderedDict()
        self._ends: Plan = []
        self._grows: Plan = []
        self._tickets = 0
        self._generating = 0
        self._context_tokens = 0
        self._step = 0
        self._began_at = 0.0
        self._steps = 0
        self._first_step_secs = 0.0
        self._more_secs = 0.0

    def add(self, request: Request, now: float) -> None:
        """Take a request; one that can never fit raises ``ValueError``."""
        blocks = -(-(request.prompt_tokens + request.answer_tokens) // self.profile.block_size)
        if blocks > self._pool.size:
            raise ValueError(f"a request of {blocks} blocks does not fit in {self._pool.size}")
        if request.prompt_tokens < 1:
            raise ValueError("a prompt has at least one token")
        request.arrived_at = now
        self._waiting.append(request)
        self._interrupt(now)

    def abort(self, request: Request, now: float) -> None:
        """End a request; nothing is called for it any more. Does nothing to one that is over."""
        if request.over:
            return
        request.over = True
        if request in self._running:
            self._aborted.append(request)
            self._interrupt(now)
        else:
            self._waiting.remove(request)

    def advance(self) -> None:
        """Do what is due, at the time when it is due."""
        at = self.due
        self._end_stretch(at)
        self._drop_aborted()
        self._tell()
        self._begin_stretch(at)

    def produced(self, request: Request, now: float) -> int:
        """Return how many tokens of a request's answer there are."""
        if not request.ticket:
            return request.produced
        return request.produced + self._step + self._steps_done(now) - request.base_step

    def clear_cache(self) -> bool:
        """Forget all that is cached, as after ``/reset_prefix_cache``; not while a request holds blocks, as vLLM."""
        if self._running:
            return False
        self._pool.clear()
        if self._keep_events:
            self.events.append(Cleared())
        return True

    def cached_tokens(self, hashes: Iterable[int]) -> int:
        """Return how many leading tokens of a prompt are cached this very moment."""
        return len(self._pool.cached(hashes)) * self.profile.block_size

    def unprocessed(self) -> Iterator[Request]:
        """Give the requests whose prompts are not computed yet."""
        yield from self._prefilling
        yield from self._waiting

    @property
    def unfinished(self) -> int:
        """Requests that wait or run."""
        return len(self._waiting) + len(self._running)

    @property
    def generating(self) -> int:
        """Requests whose answer is being generated."""
        return self._generating

    @property
    def loras(self) -> tuple[list[str], list[str]]:
        """The adapters of the requests that run, and of those that wait."""
        running = {request.lora for request in self._running if request.lora}
        return sorted(running), sorted({request.lora for request in self._waiting if request.lora})

    def backlog_secs(self, now: float) -> float:
        """Return how long it takes until a prompt that arrives now is begun with, if there is a seat.

        That is the step under way, and all prompts before it as far as they are not computed or cached.
        """
        if self.due == inf:
            return 0.0
        secs = self._step_ends_at(self._steps_done(now) + 1) - now
        step = self.profile.step
        for request, chunk in self._chunks:
            secs += step.prefill_secs(request.target - request.computed - chunk, request.computed + chunk)
        for request in self._waiting:
            cached = len(self._pool.cached(self._hittable(request))) * self.profile.block_size
            secs += step.prefill_secs(request.target - cached, cached)
        return secs

    # One stretch.

    def _begin_stretch(self, now: float) -> None:
        preemptions = self._counters.preemptions
        self._grow(self._step + 1)
        budget = self._continue_prompts(self.profile.max_num_batched_tokens - self._generating)
        # Nobody is let in where somebody had to go; but the step after that may do so.
        preempted = self._counters.preemptions > preemptions
        lora_secs = 0.0 if preempted else self._admit(budget, now)
        if not self._chunks and not self._generating:
            self._rest()
            return
        step = self.profile.step
        generating = self._generating
        pace = step.sequence_secs * generating + step.context_token_secs * self._context_tokens
        if self._device is not None:
            self._device.enter(self)
        self._began_at = now
        self._more_secs = step.context_token_secs * generating
        self._first_step_secs = pace + self._prompt_secs() + lora_secs
        self._steps = 1 if self._chunks or preempted else self._quiet_steps()
        if self._device is not None:
            slowdown = self._device.slowdown
            self._first_step_secs *= slowdown
            self._more_secs *= slowdown
            self._steps = min(self._steps, self._device.most_steps)
        self.due = self._step_ends_at(self._steps)

    def _rest(self) -> None:
        self.due = inf
        self._steps = 0
        if self._device is not None:
            self._device.leave(self)

    def _prompt_secs(self) -> float:
        """Return what a step takes beside its generating sequences."""
        step = self.profile.step
        floor = step.base_secs
        if not self._chunks:
            return floor
        secs, tokens = 0.0, 0
        for request, chunk in self._chunks:
            secs += step.prefill_secs(chunk, request.computed)
            tokens += chunk
        return max(secs, floor, step.eager_secs if tokens > step.eager_tokens else 0.0)

    def _quiet_steps(self) -> int:
        """Return for how many steps nothing changes but the lengths of the answers."""
        steps = self._next(self._ends) - self._step
        blocks_at_most = self._generating * (steps // self.profile.block_size + 1)
        if blocks_at_most > self._pool.free:
            steps = min(steps, self._next(self._grows) - self._step)
        return steps

    def _step_ends_at(self, steps: int) -> float:
        """Return when so many steps of the stretch are done: each takes ``_more_secs`` more than the one before."""
        return self._began_at + steps * self._first_step_secs + self._more_secs * (steps * (steps - 1) / 2)

    def _steps_done(self, now: float) -> int:
        """Return how many steps of the stretch are done, at most all but the last."""
        if self._steps <= 1 or now <= self._began_at:
            return 0
        more, first, elapsed = self._more_secs, self._first_step_secs, now - self._began_at
        if more > 0:
            ahead = first - more / 2
            steps = int((sqrt(ahead * ahead + 2 * more * elapsed) - ahead) / more)
        else:
            steps = int(elapsed / first)
        steps = max(0, min(steps + 1, self._steps - 1))
        while steps and self._step_ends_at(steps) > now:
            steps -= 1
        return steps

    def _interrupt(self, now: float) -> None:
        """Let a change take part in the next step."""
        if self.due == inf:
            self._begin_stretch(now)
        elif self._steps > 1:
            self._steps = self._steps_done(now) + 1
            self.due = self._step_ends_at(self._steps)

    def _end_stretch(self, at: float) -> None:
        steps, generating = self._steps, self._generating
        secs = at - self._began_at
        self._step += steps
        self._context_tokens += steps * generating
        counters = self._counters
        counters.busy_secs += secs
        counters.decode_tokens += steps * generating
        counters.generated_tokens += steps * generating
        counters.decode_secs += secs * generating
        self._steps = 0
        self._grow(self._step)
        while self._next(self._ends) <= self._step:
            request = heapq.heappop(self._ends)[2]
            if not request.over:
                self._finish(request, at)
        chunks, self._chunks = self._chunks, []
        for request, chunk in chunks:
            request.computed += chunk
            if request.computed == request.target and not request.over:
                self._prompt_done(request, at)

    # Prompts.

    def _continue_prompts(self, budget: int) -> int:
        """Plan the next chunk of each prompt under way; return what is left of the budget."""
        for request in list(self._prefilling):
            if budget <= 0:
                break
            if request not in self._running:
                continue
            chunk = min(request.target - request.computed, budget)
            missing = self._missing_blocks(request, chunk)
            while missing > self._pool.free and request in self._running:
                self._preempt_last()
            if request in self._running:
                self._plan_chunk(request, chunk)
                budget -= chunk
        return budget

    def _admit(self, budget: int, now: float) -> float:
        """Let in who waits, as far as there is room; return how long loading adapters takes."""
        lora_secs = 0.0
        passed_over: list[Request] = []
        while self._waiting and budget > 0 and len(self._running) < self.profile.max_num_seqs:
            request = self._waiting[0]
            if request.lora and not self._lora_fits(request.lora):
                passed_over.append(self._waiting.popleft())
                continue
            hits = self._pool.cached(self._hittable(request))
            cached = len(hits) * self.profile.block_size
            chunk = min(request.target - cached, budget)
            needed = -(-(cached + chunk) // self.profile.block_size) - len(hits)
            if needed + self._pool.count_free(hits) > self._pool.free:
                break
            self._waiting.popleft()
            lora_secs += self._load_lora(request.lora)
            self._let_in(request, hits, now)
            self._plan_chunk(request, chunk)
            budget -= chunk
        self._waiting.extendleft(reversed(passed_over))
        return lora_secs

    def _hittable(self, request: Request) -> list[int]:
        # The last token is always computed, so its block is never a hit.
        whole = (request.target - 1) // self.profile.block_size
        return list(request.hashes[:whole]) if self.profile.enable_prefix_caching else []

    def _let_in(self, request: Request, hits: list[int], now: float) -> None:
        self._pool.hold(hits)
        request.blocks = hits
        request.stored = len(hits)
        request.computed = cached = len(hits) * self.profile.block_size
        if request.scheduled_at < 0:
            # vLLM counts what preempted requests find apart from these.
            self._counters.prefix_queries += request.target
            self._counters.prefix_hits += cached
            request.scheduled_at = now
            request.cached_tokens = cached
        self._running[request] = None
        self._prefilling.append(request)

    def _missing_blocks(self, request: Request, chunk: int) -> int:
        return -(-(request.computed + chunk) // self.profile.block_size) - len(request.blocks)

    def _plan_chunk(self, request: Request, chunk: int) -> None:
        request.blocks += self._pool.take(self._missing_blocks(request, chunk))
        self._store(request, request.computed + chunk)
        self._chunks.append((request, chunk))

    def _prompt_done(self, request: Request, at: float) -> None:
        self._prefilling.remove(request)
        counters = self._counters
        if request.first_token_at < 0:
            request.first_token_at = at
            counters.first_tokens += 1
            counters.first_token_secs += at - request.arrived_at
            counters.prompt_tokens += request.prompt_tokens
            counters.computed_tokens += request.prompt_tokens - request.cached_tokens
        if request.answer_tokens:
            request.produced += 1
            counters.generated_tokens += 1
            if request.produced == 1:
                request.on_first(at)
        if request.produced >= request.answer_tokens:
            self._finish(request, at)
        else:
            self._generate(request)

    # Answers.

    def _generate(self, request: Request) -> None:
        self._tickets += 1
        request.ticket = ticket = self._tickets
        request.base_step = self._step
        self._generating += 1
        self._context_tokens += request.target + 1
        end = self._step + request.answer_tokens - request.produced
        heapq.heappush(self._ends, (end, ticket, request))
        heapq.heappush(self._grows, (self._step + -request.target % self.profile.block_size, ticket, request))

    def _stop_generating(self, request: Request) -> None:
        done = self._step - request.base_step
        self._generating -= 1
        self._context_tokens -= request.target + done + 1
        request.produced += done
        request.computed = request.target + done
        request.ticket = 0

    def _grow(self, before_step: int) -> None:
        """Give a block to each request that needs one for a step below ``before_step``."""
        grows = self._grows
        while grows and self._next(grows) < before_step:
            step, ticket, request = grows[0]
            if not self._pool.free:
                self._preempt_last()
                continue
            self._store(request, request.target + step - request.base_step)
            request.blocks += self._pool.take(1)
            heapq.heapreplace(grows, (step + self.profile.block_size, ticket, request))

    def _next(self, plan: Plan) -> int:
        """Return the step of what is planned first, without what was planned for requests that are gone."""
        while plan and plan[0][2].ticket != plan[0][1]:
            heapq.heappop(plan)
        return plan[0][0] if plan else self._step + (1 << 30)

    def _store(self, request: Request, tokens: int) -> None:
        """Cache the whole blocks of a request's first ``tokens`` tokens."""
        whole = min(tokens // self.profile.block_size, len(request.hashes))
        first = request.stored
        if whole <= first or not self.profile.enable_prefix_caching:
            return
        for place in range(first, whole):
            self._pool.store(request.blocks[place], request.hashes[place])
        request.stored = whole
        if self._keep_events:
            self.events.append(Stored(request, first, whole - first))

    def _finish(self, request: Request, at: float) -> None:
        if request.ticket:
            self._stop_generating(request)
            self._store(request, request.computed)
        self._leave(request)
        request.over = True
        counters = self._counters
        counters.prefill_requests += 1
        counters.prefill_secs += request.first_token_at - request.scheduled_at
        counters.prefill_tokens += request.prompt_tokens - request.cached_tokens
        counters.queue_secs += request.scheduled_at - request.arrived_at
        request.on_end(at)

    def _leave(self, request: Request) -> None:
        del self._running[request]
        self._pool.release(request.blocks)
        request.blocks = []
        request.stored = 0

    def _drop_aborted(self) -> None:
        for request in self._aborted:
            self._drop(request)
        self._aborted.clear()

    def _drop(self, request: Request) -> None:
        """Let go of a running request that was aborted."""
        if request.ticket:
            self._stop_generating(request)
        elif request in self._prefilling:
            self._prefilling.remove(request)
        if request in self._running:
            self._leave(request)
        elif request in self._waiting:
            self._waiting.remove(request)

    def _preempt_last(self) -> None:
        request = next(reversed(self._running))
        if request.ticket:
            self._stop_generating(request)
        else:
            self._prefilling.remove(request)
            self._chunks = [planned for planned in self._chunks if planned[0] is not request]
        self._leave(request)
        request.target = request.prompt_tokens + request.produced
        request.computed = 0
        request.preempted += 1
        self._counters.preemptions += 1
        self._waiting.appendleft(request)

    # Adapters.

    def _lora_fits(self, lora: str) -> bool:
        used = {request.lora for request in self._running if request.lora}
        return lora in used or len(used) < self.profile.max_loras

    def _load_lora(self, lora: str) -> float:
        """Make room for an adapter; return how long loading it takes."""
        if not lora:
            return 0.0
        if lora in self._loras:
            self._loras.move_to_end(lora)
            return 0.0
        if len(self._loras) >= self.profile.max_loras:
            used = {request.lora for request in self._running}
            del self._loras[next(loaded for loaded in self._loras if loaded not in used)]
        self._loras[lora] = None
        return self.profile.lora_load_secs

    # What it tells.

    def _tell(self) -> None:
        self._counters.evictions = self._pool.evictions
        self.shown = Shown(len(self._running), len(self._waiting), self._pool.usage, copy.copy(self._counters))

    def _evicted(self, block_hash: int) -> None:
        if self._keep_events:
            self.events.append(Removed(block_hash))
