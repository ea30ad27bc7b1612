"""Checks a second of the reward service's pool beside the library called serially, and of ``robust`` beside it, too.

    OMP_NUM_THREADS=1 python bench/reward.py [--rounds 9] [--pairs 96]

The pairs are made up: numbers, fractions, roots, polynomials, sets, intervals and tuples, half of them equal, none
equal by its text, every round new ones, so that no cache knows them. In a round the library compares them one after the
other in this process, then in two processes that have half of them each; and pools of 1 and 2 verifier children do,
which have the isolation of a run (a process with limits of CPU time and memory), asked 16 at a time as a rollout asks.
As many cores compare with as many. All take turns, so that other load on the machine hits each; the median of the
rounds' ratios counts. Latency is that of one pair asked alone, again and again.
Ends with 1 when a ratio is below its bar (``bars.toml``).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import time
from collections.abc import Callable

from bars import hold

from rz_workers.reward.interface import Example
from rz_workers.reward.pool import Asked, VerifierPool
from rz_workers.reward.verifiers import load_verifier

REQUEST = 16
Pair = tuple[str, str]


def make_pairs(count: int, seed: int) -> list[Pair]:
    """(answer, reference)."""
    rng = random.Random(seed)
    return [_pair(rng, number % 7, equal=number % 2 == 0) for number in range(count)]


def _pair(rng: random.Random, kind: int, *, equal: bool) -> Pair:
    a, b, c = (rng.randint(2, 999) for _ in range(3))
    off = 0 if equal else 1
    match kind:
        case 0:
            return f"{a}.{b}0", f"{a + off}.{b}"
        case 1:
            return rf"\frac{{{a}}}{{{b}}}", rf"\frac{{{c * a}}}{{{c * b + off}}}"
        case 2:
            return rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b + off}}}"
        case 3:
            return rf"(x+{a})(x-{b})", rf"x^2+{a - b}x-{a * b + off}".replace("+-", "-")
        case 4:
            return rf"\{{{a},{b},{c}\}}", rf"\{{{c},{a},{b + off}\}}"
        case 5:
            return rf"({a},{a + b}]", rf"\left({a},{a + b + off}\right]"
        case _:
            return rf"({a},\frac{{{b}}}{{2}})", rf"\left({a},{b + off}/2\right)"


async def pool_seconds(pool: VerifierPool, verifier: str, pairs: list[Pair]) -> float:
    """All pairs, in requests that wait side by side."""
    asked = [Asked(verifier, Example(*pair)) for pair in pairs]
    started = time.perf_counter()
    await asyncio.gather(*(pool.verify(asked[at : at + REQUEST]) for at in range(0, len(asked), REQUEST)))
    return time.perf_counter() - started


async def pool_latencies(pool: VerifierPool, verifier: str, pairs: list[Pair]) -> list[float]:
    out = []
    for pair in pairs:
        started = time.perf_counter()
        await pool.verify([Asked(verifier, Example(*pair))])
        out.append(time.perf_counter() - started)
    return out


def serial_latencies(equal: Callable[[Pair], object], pairs: list[Pair]) -> list[float]:
    out = []
    for pair in pairs:
        started = time.perf_counter()
        equal(pair)
        out.append(time.perf_counter() - started)
    return out


def two_processes_seconds(equal: Callable[[Pair], object], pairs: list[Pair]) -> float:
    """Of two processes without any limit, until both have compared their half."""
    started = time.perf_counter()
    children = []
    for half in (pairs[::2], pairs[1::2]):
        pid = os.fork()
        if pid == 0:
            try:
                serial_latencies(equal, half)
            finally:
                os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    return time.perf_counter() - started


def p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


async def measure(rounds: int, count: int) -> dict[str, float]:
    """The median ratio of each bar."""
    library, robust = load_verifier("math-verify"), load_verifier("robust")
    ratios: dict[str, list[float]] = {"reward-pool-1": [], "reward-pool-2": [], "reward-robust": []}
    latencies: dict[str, list[float]] = {"the library": [], "a pool of 1": [], "a pool of 2": [], "robust": []}

    def with_library(pair: Pair) -> object:
        return library(Example(*pair))

    def pool(workers: int) -> VerifierPool:
        return VerifierPool({"math-verify": None}, workers=workers, cpu_seconds=10.0, memory_mib=1024)

    async with pool(1) as one, pool(2) as two:
        for number in range(rounds + 1):
            pairs = make_pairs(count, number)
            serial = serial_latencies(with_library, pairs)
            by_pool = {1: await pool_seconds(one, "math-verify", pairs)}
            serially = {1: sum(serial), 2: two_processes_seconds(with_library, pairs)}
            by_pool[2] = await pool_seconds(two, "math-verify", pairs)
            ours = serial_latencies(lambda pair: robust(Example(*pair)), pairs)
            alone = make_pairs(count // 2, 1000 + number)
            waits = [await pool_latencies(each, "math-verify", alone) for each in (one, two)]
            if number == 0:  # warms up
                continue
            latencies["the library"] += serial
            latencies["a pool of 1"] += waits[0]
            latencies["a pool of 2"] += waits[1]
            latencies["robust"] += ours
            ratios["reward-robust"].append(sum(serial) / sum(ours))
            for workers, seconds in by_pool.items():
                ratios[f"reward-pool-{workers}"].append(serially[workers] / seconds)
            rates = {f"serially in {n}": count / serially[n] for n in (1, 2)}
            rates |= {f"by a pool of {n}": count / by_pool[n] for n in (1, 2)} | {"by robust": count / sum(ours)}
            print(
                f"round {number}, checks a second: {', '.join(f'{rate:.0f} {how}' for how, rate in rates.items())}",
                flush=True,
            )
    for name, seconds in latencies.items():
        print(f"{name}: median {statistics.median(seconds) * 1e3:.2f} ms, p99 {p99(seconds) * 1e3:.2f} ms")
    return {name: statistics.median(values) for name, values in ratios.items()}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--rounds", type=int, default=9, help="measured rounds after one that warms up")
    arguments.add_argument("--pairs", type=int, default=96, help="pairs of a round")
    options = arguments.parse_args()
    measured = asyncio.run(measure(options.rounds, options.pairs))
    held = [hold(name, ratio) for name, ratio in measured.items()]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
