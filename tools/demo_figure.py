"""The figure of the README out of what `make demo` made: `python tools/demo_figure.py [runs/demo] [nbs/images/demo.png]`."""
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
ROWS = [("2b_scatter", "2f_tata_implant", "2g_evolution"), ("2c_filters",), ("2e_attribution",)]
WIDTH, GAP, LARGEST = 1200, 12, 100_000


def row(figures, names):
    "The pictures of a row at one height, as wide as the whole"
    images = [Image.open(figures / f"{name}.png").convert("RGB") for name in names]
    height = (WIDTH - GAP * (len(images) - 1)) / sum(im.width / im.height for im in images)
    images = [im.resize((round(height * im.width / im.height), round(height)), Image.Resampling.LANCZOS) for im in images]
    out, x = Image.new("RGB", (WIDTH, round(height)), "white"), 0
    for im in images:
        out.paste(im, (x, 0))
        x += im.width + GAP
    return out


def montage(run, path):
    "All rows under one another, in few colours, so that the file stays small"
    rows = [row(Path(run) / "figures", names) for names in ROWS]
    out, y = Image.new("RGB", (WIDTH, sum(r.height for r in rows) + GAP * (len(rows) - 1)), "white"), 0
    for r in rows:
        out.paste(r, (0, y))
        y += r.height + GAP
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    out.quantize(96).save(path, optimize=True)
    if (size := Path(path).stat().st_size) > LARGEST: raise SystemExit(f"{path} has {size:,} bytes, at most {LARGEST:,}")


if __name__ == "__main__":
    montage(*(sys.argv[1:] + [ROOT / "runs/demo", ROOT / "nbs/images/demo.png"][len(sys.argv) - 1:]))
