"""Run a use case and show its numbers: `python use_cases/run.py jores21 --scale smoke --out runs/demo --fresh`.

The notebook `NN_<case>.ipynb` is executed by papermill; `<case>.ipynb`, `<case>.html`, `metrics.json` and the figures
end up in `out`. With `--executed` the page is also stored in `use_cases/executed/`, made small, to be read without running it.
"""
import argparse
import base64
import contextlib
import io
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCALES = {
    "smoke": "simulated data with known truth, no network: one to three minutes on two cores",
    "sample": "real data from the folder that EUGENE_DATA names: under half an hour on two cores",
    "full": "the complete public data: hours, on a GPU",
}
FIGURE_BYTES, PAGE_BYTES = 90_000, 1_200_000  # of one stored figure, and of a stored page
PATH = re.compile(r"(?<![\w./])/(?:home|root|work|mnt|tmp|Users|private|var)/[\w./-]*")


def find_notebook(case, folder):
    "The notebook of a use case. Raises `SystemExit` that lists the cases."
    notebooks = {p.stem.partition("_")[2]: p for p in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))}
    if case not in notebooks:
        raise SystemExit(f"There is no use case {case!r}; choose one of {', '.join(notebooks)}.")
    return notebooks[case]


@contextlib.contextmanager
def result_folder(out, fresh):
    "A folder to fill. With `fresh` it starts empty, and what it held comes back if the block fails."
    before, failed = out.with_name(f".{out.name}.before"), out.with_name(f"{out.name}-failed")
    if fresh:
        if before.exists():  # a run was killed on the way: what it left is no result
            shutil.rmtree(out, ignore_errors=True)
            before.rename(out)
        shutil.rmtree(failed, ignore_errors=True)
        if out.exists():
            out.rename(before)
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield out
    except BaseException:
        if fresh:
            out.rename(failed)
            if before.exists():
                before.rename(out)
        raise
    shutil.rmtree(before, ignore_errors=True)


class Bars:
    "Passes the progress bars of a running notebook on to the terminal, and nothing else it says"

    def write(self, text):
        if text.startswith("\r"):
            sys.stderr.write(text)

    def flush(self):
        sys.stderr.flush()


def run_notebook(notebook, page, parameters):
    "Execute a notebook with papermill, in the notebook's own folder, and write what it shows to `page`"
    import papermill

    os.environ.pop("MPLBACKEND", None)  # the kernel's own backend puts the figures on the page
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait should not keep others from working
    if parameters["scale"] == "smoke":
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # a network this small is no faster on two threads
    try:
        papermill.execute_notebook(
            str(notebook), str(page), parameters=parameters, kernel_name="python3", cwd=str(notebook.parent), stderr_file=Bars(),
            extra_arguments=["--IPKernelApp.log_level=40"])
    finally:
        if page.exists():
            tidy(page)


def tidy(page):
    "Take out of a page what a progress bar wrote over itself"
    nb = json.loads(page.read_text(encoding="utf-8"))
    for cell in nb["cells"]:
        outputs = cell.get("outputs", [])
        said = [output for output in outputs if output.get("name") == "stderr"]
        text = "".join("".join(output["text"]) for output in said)
        lines = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]
        for output in said:
            output["text"] = ""
        if said:
            said[0]["text"] = "".join(f"{line}\n" for line in lines if line)
            cell["outputs"] = [output for output in outputs if output.get("text") != ""]
    page.write_text(json.dumps(nb, indent=1, ensure_ascii=False), encoding="utf-8")


def small_figure(text, limit):
    "A PNG in base64 with few colours, and no larger than `limit` bytes"
    from PIL import Image

    image, buffer = Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"), None
    for colours, scale in ((256, 1), (128, 1), (64, 1), (64, .8), (64, .6), (32, .5), (32, .35), (16, .25)):
        buffer = io.BytesIO()
        part = image if scale == 1 else image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))), Image.Resampling.LANCZOS)
        part.quantize(colours, method=Image.Quantize.MAXCOVERAGE).save(buffer, format="PNG", optimize=True)
        if buffer.tell() <= limit:
            break
    return base64.b64encode(buffer.getvalue()).decode()


def slim(nb, limit):
    "A page for the repository: its code, tables and figures, small, without what belongs to one machine"
    nb = json.loads(json.dumps(nb))
    nb["metadata"] = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    for cell in nb["cells"]:
        cell["metadata"] = {"tags": cell["metadata"]["tags"]} if cell["metadata"].get("tags") else {}
        cell["source"] = "".join(cell["source"]).splitlines(True)
        if cell["cell_type"] != "code":
            continue
        cell["execution_count"], kept = None, []
        for output in cell["outputs"]:
            if output.get("name") == "stderr":
                continue
            output.pop("execution_count", None)
            if "text" in output:
                output["text"] = PATH.sub("...", "".join(output["text"])).splitlines(True)
            if "data" in output:
                output["metadata"] = {} if "metadata" not in output else output["metadata"]
                if output["output_type"] == "execute_result":
                    output["execution_count"] = None
                output["data"] = {kind: small_figure("".join(data), limit) if kind == "image/png" else PATH.sub("...", "".join(data)).splitlines(True)
                                  for kind, data in output["data"].items() if kind in ("image/png", "text/plain", "text/html")}
            kept.append(output)
        cell["outputs"] = kept
    return nb


def store(page, target):
    "Write a slim copy of an executed page, figures smaller until the whole fits"
    nb = json.loads(Path(page).read_text(encoding="utf-8"))
    for limit in (FIGURE_BYTES, 60_000, 30_000, 20_000, 14_000, 9_000):
        text = json.dumps(slim(nb, limit), indent=1, ensure_ascii=False) + "\n"
        if len(text.encode()) <= PAGE_BYTES:
            break
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return target


def write_html(page):
    "The executed notebook as one page for a browser, code and figures included"
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter().from_filename(str(page))
    html = page.with_suffix(".html")
    html.write_text(body, encoding="utf-8")
    return html


def flat(values, prefix=""):
    "Nested numbers and words as `(name, value)` pairs; lists and tables stay in the file"
    for key, value in values.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        if isinstance(value, dict):
            yield from flat(value, name)
        elif isinstance(value, (bool, int, float, str)):
            yield name, value


def shown(value):
    "A table's entry: four digits of a fraction, yes or no, everything else as it is"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def columns(rows):
    "Rows of text as lines with aligned columns"
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]


def summary(metrics):
    "What `metrics.json` holds, as the short table printed at the end"
    rows = [{"model": name, **row} for name, models in metrics["models"].items() for row in models]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = [names] + [[shown(row.get(name)) for name in names] for row in rows]
    data = metrics["data"] if isinstance(metrics["data"], dict) else {"data": metrics["data"]}
    data = {**data, **{key: metrics[key] for key in ("hardware", "epochs", "commit") if metrics.get(key) is not None}}
    facts = [*flat(data), *flat(metrics.get("truth", {})), *flat(metrics["interpretation"]), *flat(metrics.get("checks", {}))]
    head = f"{metrics['use_case']}, scale {metrics['scale']}"
    return "\n".join([head, "", *columns(table), "", *columns([[name, shown(value)] for name, value in facts])])


def value_of(text):
    "A parameter's value: a number, true, false or null where it reads as one, else the word itself"
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def parse(arguments):
    parser = argparse.ArgumentParser(description="Run a use case and show its numbers.")
    parser.add_argument("case", help="name of the use case: jores21, deepbind_rbp, jund")
    parser.add_argument("--scale", default="smoke", choices=SCALES, help="how much data, and which")
    parser.add_argument("--out", type=Path, required=True, help="folder for the page, the figures and the numbers")
    parser.add_argument("--fresh", action="store_true", help="start from an empty folder")
    parser.add_argument("--executed", action="store_true", help="also store the page, made small, as executed/<case>-<scale>.ipynb beside the notebook")
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set a parameter of the notebook")
    return parser.parse_args(arguments)


def main(arguments=None, folder=HERE):
    args = parse(arguments)
    notebook, out = find_notebook(args.case, folder), args.out.resolve()
    if os.environ.get("EUGENE_DATA"):
        os.environ["EUGENE_DATA"] = str(Path(os.environ["EUGENE_DATA"]).resolve())
    parameters = {"scale": args.scale, "out": os.path.relpath(out, notebook.parent)}
    parameters |= {name: value_of(text) for name, text in args.parameters}
    print(f"Running use_cases/{notebook.name} into {args.out}. Scale {args.scale}: {SCALES[args.scale]}", flush=True)
    started = time.time()
    try:
        with result_folder(out, args.fresh):
            page = out / f"{args.case}.ipynb"
            run_notebook(notebook, page, parameters)
            html = write_html(page)
            metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
            stored = store(page, notebook.parent / "executed" / f"{notebook.stem}-{args.scale}.ipynb") if args.executed else None
    except Exception as error:
        left = args.out.with_name(f"{args.out.name}-failed") if args.fresh else args.out
        name = getattr(error, "ename", type(error).__name__)
        text = getattr(error, "evalue", str(error))
        raise SystemExit(f"use_cases/{notebook.name} did not run to its end. {name}: {text}\nThe page so far: {left / (args.case + '.ipynb')}") from error
    if stored:
        print(f"Stored {stored.relative_to(notebook.parent.parent)}, {stored.stat().st_size // 1000} kB")
    print(f"\n{summary(metrics)}\n\n{time.time() - started:.0f} s. Open {args.out / html.name}")


if __name__ == "__main__":
    sys.exit(main())
