"""Run every benchmark in every environment, join what they say by the row `limit`, and hold it against the goals.

    python tests/benchmarks/run.py                          # all, into tests/benchmarks/results.{json,md,png}
    python tests/benchmarks/run.py --only one_hot --quick   # does it run?

Peers that cannot live in this environment are looked for in those named by EUGENE_BENCH_ENVS: folders of virtual
environments, or folders that hold some, separated like those of PATH. `environments.sh` makes them.
"""
import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def scripts(only):
    "The scripts that use the harness, by name. Raises `SystemExit` for one that is not there."
    there = {p.stem: p for p in sorted(HERE.glob("*.py")) if "from harness import" in p.read_text() and p.stem != "run"}
    lost = set(only or ()) - set(there)
    if lost: raise SystemExit(f"There is no benchmark {', '.join(sorted(lost))}; there are {', '.join(there)}.")
    return {n: p for n, p in there.items() if not only or n in only}


def environments():
    "Name and Python of this environment and of those of the peers"
    found = {"own": Path(sys.executable)}
    for folder in filter(None, os.environ.get("EUGENE_BENCH_ENVS", "").split(os.pathsep)):
        for env in (Path(folder), *sorted(p for p in Path(folder).glob("*") if p.is_dir())):
            if (env / "bin" / "python").is_file(): found[env.name] = env / "bin" / "python"
    return found


def run_script(script, name, python, args, done):
    "The lines of one script in one environment; `done` are tools that were measured elsewhere"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"NUMBA_CACHE_DIR": str(Path(os.environ.get("NUMBA_CACHE_DIR", ROOT / ".cache" / "numba")) / name)}
    if name == "own": env["PYTHONPATH"] = str(ROOT)
    command = [str(python), str(script), "--rounds", str(args.rounds), "--environment", name, *(["--quick"] if args.quick else []), *(["--skip", *done] if done else [])]
    start = time.perf_counter()
    try: ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=args.timeout)
    except subprocess.TimeoutExpired as e: out, error = e.stdout or b"", f"stopped after {args.timeout} s"
    else: out, error = ran.stdout, (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1] if ran.returncode else ""
    out = out.decode() if isinstance(out, bytes) else out
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    if error: lines.append({"benchmark": script.stem, "environment": name, "failed": error})
    print(f"{script.stem:15} {name:10} {time.perf_counter() - start:6.1f} s  {sum('median' in line for line in lines)} lines{'  ' + error if error else ''}", flush=True)
    return lines


def collect(args):
    "The lines of all scripts in all environments"
    lines = []
    for stem, script in scripts(args.only).items():
        done = []
        for name, python in environments().items():
            new = run_script(script, name, python, args, done)
            lines += new
            done = sorted({*done, *(f"{v['case']}/{v['tool']}" for v in new if "median" in v and v["tool"] != "limit" and not v["tool"].startswith("ours"))})
    there = {(v["benchmark"], v["case"], v["tool"]) for v in lines if "median" in v}
    return [v for v in lines if "absent" not in v or (v["benchmark"], v["case"], v["tool"]) not in there]


def machine():
    "What this was measured on"
    info = Path("/proc/cpuinfo")
    model = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")), "") if info.is_file() else ""
    return {"processor": model or platform.processor(), "cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version(), "load": os.getloadavg()[0],
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)}


def pick(lines, **want):
    "Lines with these values that hold a measurement, the size that was asked for first"
    return [v for v in lines if "median" in v and all(v.get(k) == w for k, w in want.items())]


def times_faster(lines, benchmark, case, tool, peer):
    "How many times as fast as a peer a tool is: of one run where there is one, else through `limit`; None if not known"
    mine = pick(lines, benchmark=benchmark, case=case, tool=tool)
    direct = [v["x_peers"][peer] for v in mine if peer in v.get("x_peers", {})]
    if direct: return direct[0]
    theirs = pick(lines, benchmark=benchmark, case=case, tool=peer)
    both = [v["x_limit"] for v in (*mine[:1], *theirs[:1]) if v.get("x_limit")]
    return both[1] / both[0] if len(both) == 2 else None


def judge(goal, lines):
    "What was asked of a goal and what was found: rows (text asked, found, met), and the verdict"
    where = {k: goal[k] for k in ("benchmark", "case")} | {"tool": goal.get("tool", "ours")}
    mine = max(pick(lines, **where), key=lambda v: len(v.get("x_peers", {})), default={})  # where most peers are
    rows = []
    for peer, least in goal.get("peers", {}).items():
        x = times_faster(lines, peer=peer, **where)
        rows.append((f">= {least:g} x {peer}", x, None if x is None else x >= least))
    if "limit" in goal: rows.append((f"<= {goal['limit']:g} x limit", (x := mine.get("x_limit")), None if x is None else x <= goal["limit"]))
    for words, sign in (("most", "<="), ("least", ">=")):
        for fact, bound in goal.get(words, {}).items():
            x = mine.get(fact)
            rows.append((f"{fact} {sign} {bound:g}", x, None if x is None else (x <= bound if sign == "<=" else x >= bound)))
    for peer, facts in goal.get("most_of", {}).items():
        for fact, bound in facts.items():
            both = [v[0][fact] if v and fact in v[0] else None for v in (pick(lines, **where), pick(lines, **where | {"tool": peer}))]
            x = None if None in both else both[0] / both[1]
            rows.append((f"{fact} <= {bound:g} x {peer}", x, None if x is None else x <= bound))
    if mine and mine.get("check", "ok") not in ("ok", ""): rows.append(("right", mine["check"], False))
    met = [ok for *_, ok in rows]
    return rows, "missed" if False in met else "not measured" if None in met or not met else "met"


def figure(x):
    "Three digits, thousands as k"
    if not isinstance(x, (int, float)): return "" if x is None else str(x)
    for size, mark in ((1e6, "M"), (1e3, "k")):
        if abs(x) >= size: return f"{x / size:.3g}{mark}"
    return f"{x:.3g}"


FACTS = ("benchmark", "case", "tool", "version", "environment", "threads", "size", "unit", "median", "min", "max", "spread", "check", "seconds", "x_limit", "x_best_peer",
         "best_peer", "x_peers", "slope")


def table(benchmark, case, lines):
    "A Markdown table of one case"
    rows = [v for v in lines if v.get("benchmark") == benchmark and v.get("case") == case]
    out = [f"**{case}** ({next((v['unit'] for v in rows), '')}/s)", "", "| tool | size | speed | spread | x limit | ours is | slope | check | more |", "|---|---|---|---|---|---|---|---|---|"]
    base = {v["size"] for v in rows if "slope" not in v}
    for v in rows:
        name = f"{v['tool']} {v['version']}".strip() if v["tool"] != "limit" and not v["tool"].startswith("ours") else v["tool"]
        if "absent" in v: out.append(f"| {name} | absent: {v['absent']} | | | | | | | |"); continue
        x = times_faster(lines, benchmark, case, "ours", v["tool"]) if v["tool"] != "limit" and not v["tool"].startswith("ours") and v["size"] in (base or {rows[0]["size"]}) else None
        more = ", ".join(f"{k} {figure(w)}" for k, w in v.items() if k not in FACTS)
        out.append(f"| {name} ({v['environment']}) | {figure(v['size'])} | {figure(v.get('median'))} | {100 * v.get('spread', 0):.0f} % | {figure(v.get('x_limit'))} | {figure(x) + ' x' if x else ''} "
                   f"| {figure(v.get('slope'))} | {v.get('check', '')} | {more} |")
    return [*out, ""]


def markdown(told):
    "The whole report"
    lines, m = told["lines"], told["machine"]
    out = ["# Speed beside others", "", f"{m['processor']}, {m['cores']} cores, {m['memory_gb']} GB, Python {m['python']}, {told['date']}, load {m['load']:.1f} at the start, "
           f"{told['rounds']} rounds, one thread, tools in turn.{' A quick run: small sizes, one round, no figures to use.' if told['quick'] else ''}", "",
           "| | goal | asked | found | |", "|---|---|---|---|---|"]
    for g in told["goals"]:
        asked, found = (", ".join(texts) for texts in (list(map(str, g["asked"])), [figure(x) or "-" for x in g["found"]]))
        out.append(f"| {g['id']} | {g['benchmark']}: {g['case']} | {asked} | {found} | {g['verdict']} |")
    for benchmark in dict.fromkeys(v["benchmark"] for v in lines):
        out += ["", f"## {benchmark}", ""]
        out += [f"{v['environment']}: {v['failed']}\n" for v in lines if v["benchmark"] == benchmark and "failed" in v]
        for case in dict.fromkeys(v["case"] for v in lines if v["benchmark"] == benchmark and "case" in v): out += table(benchmark, case, lines)
    return "\n".join(out) + "\n"


def plot(told, path):
    "How many times as fast as each peer, beside what was asked"
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    rows = [(f"{g['id']}  {g['case']}", text.split(" x ")[1], float(text.split()[1]), x) for g in told["goals"] for text, x in zip(g["asked"], g["found"])
            if text.startswith(">=") and " x " in text and x is not None]
    if not rows: return
    fig, ax = plt.subplots(figsize=(8, .6 + .24 * len(rows)), layout="constrained")
    for i, (_, peer, asked, x) in enumerate(rows):
        ax.plot([1, x], [i, i], color="#bbbbbb", lw=1, zorder=1)
        ax.plot(x, i, "o" if x >= asked else "D", color="#0072B2" if x >= asked else "#D55E00", ms=5, zorder=3)
        ax.plot(asked, i, "|", color="black", ms=9, zorder=2)
        ax.annotate(f"{figure(x)} x {peer}", (max(x, asked), i), (7, 0), textcoords="offset points", va="center", fontsize=7)
    for mark, color, label in (("o", "#0072B2", "met"), ("D", "#D55E00", "missed"), ("|", "black", "asked")): ax.plot([], [], mark, color=color, label=label)
    ax.set_yticks(range(len(rows)), [r[0] for r in rows], fontsize=7)
    ax.set(xscale="log", ylim=(len(rows) - .4, -.6), xlabel="times as fast as the peer, one thread (log scale)")
    ax.set_xlim(min(.7, min(r[3] for r in rows) * .8), max(max(r[2:]) for r in rows) * 12)
    ax.axvline(1, color="black", lw=.6)
    ax.legend(frameon=False, fontsize=7, loc="lower right")
    for side in ("top", "right", "left"): ax.spines[side].set_visible(False)
    ax.tick_params(axis="y", length=0)
    fig.savefig(path, dpi=130)


def main():
    import yaml
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="names of scripts")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--timeout", type=int, default=900, help="seconds for one script in one environment")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for results.json, results.md and results.png")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.quick: args.rounds = 1
    told = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "rounds": args.rounds, "quick": args.quick, "lines": collect(args), "goals": []}
    for goal in yaml.safe_load((HERE / "goals.yaml").read_text()):
        if args.only and goal["benchmark"] not in args.only: continue
        rows, verdict = judge(goal, told["lines"])  # small sizes decide nothing
        told["goals"].append(goal | {"asked": [r[0] for r in rows], "found": [r[1] for r in rows], "verdict": "quick" if args.quick else verdict})
    (args.out / "results.json").write_text(json.dumps(told, indent=1) + "\n")
    (args.out / "results.md").write_text(markdown(told))
    plot(told, args.out / "results.png")
    for g in told["goals"]: print(f"{g['id']:5} {g['benchmark']}: {g['case']}: {g['verdict']} ({', '.join(f'{a}: {figure(x)}' for a, x in zip(g['asked'], g['found']))})")


if __name__ == "__main__": main()
