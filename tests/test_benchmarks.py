"""The harness of tests/benchmarks: lines, checks, absent and failing tools, joining through `limit`, verdicts. No time is asserted."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent / "benchmarks"
TOY = '''
import sys
sys.path.insert(0, {folder!r})
from harness import Case, Measured, Tool, main
def square(d): return lambda: [v * v for v in d]
def wrong(d): return lambda: [v + 1 for v in d]
def fails(d): raise ValueError("no such file")
def measured(d): return lambda: Measured(2., [v * v for v in d], {{"peak_mb": 7}})
def check(d, name, got): return {{"wrong": "" if got == [v * v for v in d] else "differs", "n": len(got)}}
tools = {{"limit": Tool(square), "ours": Tool(square), "peer": Tool(wrong, "json"), "nobody": Tool(square, "no_such_module"), "broken": Tool(fails),
         "slow": Tool(lambda d: lambda: [v * v for v in d], "json", share=.5), "itself": Tool(measured)}}
main("toy", lambda quick: [Case("squares", "numbers", 200, lambda n: list(range(n)), tools, check, grow=(.5,))])
'''


@pytest.fixture(scope="module")
def run():
    "The modules of the harness"
    sys.path.insert(0, str(HERE))
    try:
        import run
        yield run
    finally: sys.path.remove(str(HERE))


def lines(*command):
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(HERE.parents[1])})
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_toy_benchmark(tmp_path):
    script = tmp_path / "toy.py"
    script.write_text(TOY.format(folder=str(HERE)))
    found = {(v["tool"], v["size"]): v for v in lines(script, "--rounds", "2")}
    assert found["nobody", 200]["absent"] == "no module 'no_such_module'" and "median" not in found["nobody", 200]
    assert found["broken", 200]["check"] == "failed: ValueError: no such file"
    assert [found[t, 200]["check"] for t in ("limit", "ours", "peer", "itself")] == ["", "ok", "differs", "ok"]
    assert found["itself", 200] | {"seconds": 2., "peak_mb": 7, "median": 100.} == found["itself", 200]
    ours = found["ours", 200]
    assert ours["n"] == 200 and ours["x_limit"] > 0 and set(ours["x_peers"]) == {"peer", "slow"} and ours["min"] <= ours["median"] <= ours["max"]
    assert found["limit", 200]["x_limit"] == 1 and "slope" in ours and ("ours", 100) in found
    assert ("slow", 100) not in found  # what is too slow for all of it is not run at other sizes
    skipped = lines(script, "--rounds", "1", "--skip", "squares/peer", "squares/slow")
    assert [v["tool"] for v in skipped] == ["nobody"]  # nothing is left to compare with


def test_a_script_runs_and_says_who_is_absent():
    found = {v["tool"]: v for v in lines(HERE / "one_hot.py", "--quick", "--case", "list of text", "--tools", "ours", "gReLU")}
    assert found["ours"]["check"] == "ok" and found["ours"]["unit"] == "sequences" and found["ours"]["threads"] == 1
    assert found["gReLU"].get("absent", "") or found["gReLU"]["check"] == "ok"


def line(tool, seconds, limit, environment="own", check="ok", **facts):
    return {"benchmark": "b", "case": "c", "tool": tool, "environment": environment, "median": 1 / seconds, "seconds": seconds, "x_limit": seconds / limit, "x_peers": {}, "check": check} | facts


def test_verdicts(run):
    goal = {"id": "B0", "benchmark": "b", "case": "c", "peers": {"peer": 2}, "limit": 1.5, "most": {"peak_mb": 10}}
    ours, peer = line("ours", 1, 1, peak_mb=9), line("peer", 8, 2, "elsewhere")  # a machine half as fast: 4 times, not 8
    rows, verdict = run.judge(goal, [ours, peer])
    assert [x for _, x, _ in rows] == [4, 1, 9] and verdict == "met"
    assert run.judge(goal, [ours | {"x_peers": {"peer": 1.9}}, peer])[1] == "missed"
    assert run.judge(goal, [ours])[1] == "not measured" == run.judge(goal, [])[1]
    assert run.judge(goal, [ours | {"check": "differs"}, peer])[1] == "missed"
    assert run.judge(goal, [ours | {"peak_mb": 11}, peer])[1] == "missed"
    assert run.judge({"id": "B0", "benchmark": "b", "case": "c", "most_of": {"peer": {"peak_mb": .25}}}, [ours, peer | {"peak_mb": 40}])[1] == "met"


def test_goals_name_scripts_that_are_there(run):
    goals = yaml.safe_load((HERE / "goals.yaml").read_text())
    assert {g["benchmark"] for g in goals} <= {p.stem for p in HERE.glob("*.py")}
    known = {"id", "benchmark", "case", "tool", "peers", "limit", "most", "least", "most_of"}
    assert all(set(g) <= known and {"id", "benchmark", "case"} < set(g) for g in goals)
    with pytest.raises(SystemExit, match="no benchmark nothing"): run.scripts(["nothing"])


def test_the_report(run, tmp_path):
    told = {"machine": run.machine(), "date": "today", "rounds": 1, "clock": "wall", "quick": False, "goals": [{"id": "B0", "benchmark": "b", "case": "c", "asked": [">= 2 x peer"], "found": [4.], "verdict": "met"}],
            "lines": [line("ours", 1, 1, size=10, unit="things", version="") | {"x_peers": {"peer": 4.}}, line("peer", 4, 1, size=10, unit="things", version="1.2"),
                      {"benchmark": "b", "case": "c", "tool": "gone", "version": "", "unit": "things", "size": 10, "absent": "no module 'gone'"}]}
    text = run.markdown(told)
    assert "| peer 1.2 (own) | 10 | 0.25 |" in text and "| 4 x |" in text and "absent: no module 'gone'" in text and "| met |" in text
    run.plot(told, tmp_path / "results.png")
    assert (tmp_path / "results.png").stat().st_size > 1000
