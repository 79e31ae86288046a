"""Time tools beside each other: in turn, in one process, on one core, after a check that what they return is right.

A script describes cases and calls `main`. README.md says how a script is written and what a line of the output means.
"""
import os

for _name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "RAYON", "POLARS_MAX"):  # before numpy is imported
    os.environ.setdefault(f"{_name}_THREADS" if "MAX" in _name else f"{_name}_NUM_THREADS", "1")

import argparse
import gc
import importlib.metadata
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Tool(NamedTuple):
    "One way to do the work of a case"
    make: Callable          # From the data of the case a function without arguments; what it does is timed, making it is not
    needs: str = ""         # Module, or modules with spaces between, that have to be there; a tool of others is a peer
    share: float = 1        # Part of the size that one call does, for tools too slow for all
    same: Callable|None = None # What turns the result into the form that `check` knows; not timed
    package: str = ""       # Distribution whose version is told; the first of `needs` if left out


class Case(NamedTuple):
    "Work that several tools can do"
    name: str               # As in goals.yaml
    unit: str               # What `size` counts
    size: int               # How much one call does
    setup: Callable         # From a size the data of the case
    tools: dict[str, Tool]  # Ours begin with `ours`; `limit` is what no tool can beat
    check: Callable|None = None # From the data, the name of a tool and its result: "" or what is wrong, or a dict of facts
    grow: tuple = ()        # Further sizes, as multiples; those of over `LONG` seconds a call are left out
    rounds: int|None = None # Fewer rounds than asked for, where one takes long


class Measured(NamedTuple):
    "What a tool returns that measures itself, in a process of its own, say"
    seconds: float          # For one call
    value: Any = None       # The result
    facts: dict = {}        # Further numbers for the line, `peak_mb` for one


SHORT, LONG = .02, 60       # Seconds: calls below are repeated within a round; at other sizes, calls above are not made


def elsewhere(script, *args, timeout=1800):
    "Run a script in a process of its own; its last line is a JSON object with `seconds`, and facts"
    done = subprocess.run([sys.executable, str(script), *map(str, args)], capture_output=True, text=True, timeout=timeout)
    if done.returncode: raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    told = json.loads(done.stdout.strip().splitlines()[-1])
    return Measured(told.pop("seconds"), told.get("value"), told)


def missing(tool):
    "Which module of those a tool needs is not there; empty if all are"
    return next((f"no module {m!r}" for m in tool.needs.split() if importlib.util.find_spec(m.split(".")[0]) is None), "")


def version(tool):
    "Version of the package of a tool"
    name = tool.package or tool.needs.split(" ")[0].split(".")[0]
    try: return importlib.metadata.version(name or "eugene") if name else ""
    except importlib.metadata.PackageNotFoundError: return ""


def call(tool):
    "Result of one call, seconds, facts"
    start = time.perf_counter()
    result = tool()
    seconds = time.perf_counter() - start
    return (result.value, result.seconds, result.facts) if isinstance(result, Measured) else (result, seconds, {})


def checked(case, data, name, result):
    "The word of the line, and facts"
    if name == "limit" or case.check is None: return "", {}
    told = case.check(data, name, result)
    facts = told if isinstance(told, dict) else {"wrong": told}
    return str(facts.pop("wrong", "")) or "ok", facts


def prepare(case, data, tools):
    "Each tool made and called once: functions, lines so far, repeats in a round, times so far; a tool that fails is said so"
    made, lines, repeats, times = {}, {}, {}, {}
    for name, tool in tools.items():
        try:
            run = tool.make(data)
            result, seconds, facts = call(run)
            word, more = checked(case, data, name, result if tool.same is None else tool.same(result))
            measured = isinstance(facts, dict) and bool(facts)
            del result
            if not measured and seconds < 1: _, seconds, _ = call(run)  # the first call may have compiled something
            made[name], lines[name], times[name] = run, {"check": word} | more, [(seconds, facts)] if measured else []
            repeats[name] = 1 if measured else max(1, min(1000, math.ceil(SHORT / max(seconds, 1e-7))))
        except Exception as e: lines[name] = {"check": f"failed: {type(e).__name__}: {e}"[:300]}
        gc.collect()
    return made, lines, repeats, times


def measure(case, size, tools, rounds):
    "A line for each tool, all tools in turn in every round; seconds are those of the whole size"
    data = case.setup(size)
    made, lines, repeats, times = prepare(case, data, tools)
    for number in range(rounds):
        for name, run in made.items():
            if len(times[name]) > number: continue  # measured itself at the first call
            several = []
            for _ in range(repeats[name]):
                result, *told = call(run)
                del result
                several.append(told)
            times[name].append((statistics.fmean(s for s, _ in several), several[-1][1]))
    for name, line in lines.items():
        if name not in made: continue
        rounds_s = [s / tools[name].share for s, _ in times[name]]
        for key in times[name][0][1]:
            values = [facts[key] for _, facts in times[name]]
            line[key] = statistics.median(values) if all(type(v) in (int, float) for v in values) else values[-1]
        line |= {"seconds": statistics.median(rounds_s), "rounds": rounds_s}
    return lines


def ratios(lines, tools):
    "Add speeds and ratios to lines"
    middle = lambda a, b: statistics.median(x / y for x, y in zip(a["rounds"], b["rounds"]))
    timed = {name: line for name, line in lines.items() if "rounds" in line}
    peers = {name: line for name, line in timed.items() if tools[name].needs and name != "limit" and not name.startswith("ours")}
    best = min(peers, key=lambda name: peers[name]["seconds"], default=None)
    for line in timed.values():
        line["x_limit"] = middle(line, timed["limit"]) if "limit" in timed else None
        line["x_best_peer"], line["best_peer"] = (middle(peers[best], line), best) if best else (None, None)
        line["x_peers"] = {name: middle(peer, line) for name, peer in peers.items()}
    return lines


def emit(benchmark, case, size, lines, tools, environment):
    "Print the lines"
    short = lambda v: float(f"{v:.4g}") if isinstance(v, float) else {k: short(x) for k, x in v.items()} if isinstance(v, dict) else v
    for name, line in lines.items():
        out = {"benchmark": benchmark, "case": case.name, "tool": name, "version": version(tools[name]), "environment": environment, "threads": 1, "size": size, "unit": case.unit}
        rates = [size / t for t in line.pop("rounds", [])]
        if rates: out |= {"median": statistics.median(rates), "min": min(rates), "max": max(rates), "spread": (max(rates) - min(rates)) / statistics.median(rates)}
        print(json.dumps(out | {k: short(v) for k, v in line.items()}, default=str), flush=True)


def wanted(case, args):
    "The tools of a case that are there and asked for, and lines for those that are absent"
    tools, absent = {}, {}
    for name, tool in case.tools.items():
        ours = name.startswith("ours")
        if args.tools and name != "limit" and name not in args.tools or args.ours and name != "limit" and not ours: continue
        why = "no module 'eugene'" if ours and importlib.util.find_spec("eugene") is None else missing(tool)
        if why: absent[name] = {"absent": why}
        elif f"{case.name}/{name}" not in args.skip: tools[name] = tool
    new = [n for n, t in tools.items() if t.needs and n != "limit" and not n.startswith("ours")]
    return tools if new or not args.skip else {}, absent


def slopes(per_size):
    "How the seconds of each tool grow: the slope of their logarithms, 1 where twice the size takes twice the time"
    points = {}
    for size, lines in per_size.items():
        for name, line in lines.items():
            if "seconds" in line: points.setdefault(name, []).append((math.log(size), math.log(line["seconds"])))
    found = {}
    for name, p in points.items():
        (x, y), n = zip(*p), len(p)
        spread = sum((a - sum(x) / n)**2 for a in x)
        if n > 1: found[name] = sum((a - sum(x) / n) * (b - sum(y) / n) for a, b in zip(x, y)) / spread
    return found


def run_case(benchmark, case, args):
    "Measure a case at its sizes and print its lines"
    tools, absent = wanted(case, args)
    emit(benchmark, case, case.size, absent, case.tools, args.environment)
    if not tools: return
    rounds = min(args.rounds, case.rounds or args.rounds)
    per_size = {case.size: measure(case, case.size, tools, rounds)}
    for factor in () if args.quick else case.grow:
        base = per_size[case.size]
        few = {n: t for n, t in tools.items() if base[n].get("seconds", math.inf) * t.share * factor < LONG and t.share == 1}
        per_size[int(case.size * factor)] = measure(case, int(case.size * factor), few, min(rounds, 3))
    slope = slopes(per_size) if len(per_size) > 1 else {}
    for size, lines in per_size.items():
        for name, value in slope.items():
            if name in lines: lines[name]["slope"] = value
        emit(benchmark, case, size, ratios(lines, tools), tools, args.environment)


def arguments():
    "What every script understands"
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small size, one round: does everything run?")
    parser.add_argument("--ours", action="store_true", help="only ours, and `limit`")
    parser.add_argument("--tools", nargs="+", help="only these, and `limit`")
    parser.add_argument("--case", default="", help="only cases with this in their name")
    parser.add_argument("--skip", nargs="*", default=[], help="CASE/TOOL measured elsewhere; cases where no peer is left are not run")
    parser.add_argument("--environment", default=Path(sys.prefix).name.lstrip("."), help="what this environment is called")
    return parser


def main(benchmark, cases, parser=None):
    "Run a script: `cases` gives its cases, small ones if its argument is true"
    args = (parser or arguments()).parse_args()
    if args.quick: args.rounds = 1
    if hasattr(os, "sched_setaffinity"): os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if importlib.util.find_spec("torch") and "torch" in sys.modules: sys.modules["torch"].set_num_threads(1)
    for case in cases(args.quick):
        if args.case in case.name: run_case(benchmark, case, args)
