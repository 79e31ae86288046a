"""Damaged files: every reader on mutated copies of real files, in processes of their own. Run by `make fuzz`, not by pytest.

    make fuzz FOR=60 SEED=0 ARGS='--formats bed,bam', or
    python tests/fuzz.py --seconds 60 --seed 0 --formats bed,bam --out runs/fuzz

A *reader* process reads the damaged copy through `eugene`; a *judge* process reads it by other means (plain Python for text, pysam and
pyBigWig for binary files, the BAM without its index). What happened is one of

    same      the damage cannot matter, and the reading is that of the good file
    clear     a ValueError or FileNotFoundError that names the file; for numbers of a store also the failed checksum of Zarr, which
              comes when they are read and does not name the store
    right     read, and equal to what the judge reads (or, where the judge refuses all of it, to the good file)
    as pysam  reads of a BAM file are missing because its index was changed, and pysam, asked by that index, misses the same: a .bai
              file has no checksum, and a bin with another number cannot be told from one that was meant

or a finding: crash (the process ended), hang, cryptic (another exception, or one that does not name the file), wrong (rows that the
judge does not have, or a refusal of what cannot matter), litter (something left behind). One JSON line a case in `cases.jsonl`, the
file of each finding in a folder of its own; exit 1 if there is a finding. The same seed and number of cases give the same files.
"""
import argparse
import csv
import gzip
import io
import json
import os
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

FINDINGS = ("crash", "hang", "cryptic", "wrong", "litter")
START, LIMIT, MEMORY = 60, 30, 12 << 30  # seconds to start a process, and a reading may take; bytes of its address space
HOLES = {"", "NA", "N/A", "#N/A", "<NA>", "n/a", "NaN", "nan", "NULL", "null", "None"}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


# ---------------------------------------------------------------- good files

def lines_of(path, n):
    "The first lines of a real text file"
    raw = path.read_bytes()
    return b"".join((gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).splitlines(keepends=True)[:n])


def generated(folder):
    "Small files of every format"
    gen = np.random.default_rng(0)
    sizes = {"chr1": 900, "chr2": 400}
    dna = lambda n: "".join(gen.choice(list("ACGTacgtN"), n))
    fasta = "".join(f">{c} made up\n" + "\n".join(s[i:i + 50] for i in range(0, n, 50)) + "\n" for c, n in sizes.items() for s in [dna(n)])
    files = {"bed": ("a.bed", "".join(f"chr{i % 2 + 1}\t{7 * i}\t{7 * i + 20}\tname{i}\t{i}\t{'+-.'[i % 3]}\n" for i in range(40))),
             "fasta": ("a.fa", fasta), "genome": ("a.fa", fasta), "fai": ("a.fa", fasta),
             "sizes": ("a.sizes", "".join(f"chr{i}\t{1000 * i}\n" for i in range(1, 20))),
             "table": ("a.tsv", "gene\tsequence\tvalue\tnote\n" + "".join(f"g{i}\t{dna(12)}\t{i / 7:.4f}\tword {i}\n" for i in range(30))),
             "csv": ("a.csv", "gene,sequence,value,note\n" + "".join(f'g{i},{dna(12)},{i / 7:.4f},"one, two"\n' for i in range(30)))}
    for kind, (name, text) in files.items(): yield kind, put(folder / kind / name, text.encode())
    yield "bam", make_bam(folder / "bam" / "a.bam", sizes)
    yield "bai", make_bam(folder / "bai" / "a.bam", sizes)
    yield "bigwig", make_bigwig(folder / "bigwig" / "a.bw", sizes)
    yield "store", make_store(folder / "store" / "a.zarr")


def put(path, raw):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


def make_bam(path, sizes):
    import pysam
    path.parent.mkdir(parents=True, exist_ok=True)
    with pysam.AlignmentFile(str(path), "wb", header={"HD": {"SO": "coordinate"}, "SQ": [{"SN": c, "LN": n} for c, n in sizes.items()]}) as f:
        for c, n in enumerate(sizes.values()):
            for i in range(0, n - 30, 3):
                read = pysam.AlignedSegment(f.header)
                read.query_name, read.query_sequence, read.reference_id, read.reference_start = f"r{c}.{i}", "ACGTN" * 4, c, i
                read.cigarstring, read.mapping_quality, read.flag = "8M3D12M", 60, 16 * (i % 2)
                read.query_qualities = pysam.qualitystring_to_array("I" * 20)
                f.write(read)
    pysam.index(str(path))
    return path


def make_bigwig(path, sizes):
    import pyBigWig
    path.parent.mkdir(parents=True, exist_ok=True)
    with pyBigWig.open(str(path), "w") as f:
        f.addHeader(list(sizes.items()))
        for c, n in sizes.items(): f.addEntries([c] * (n // 20), list(range(0, n - 10, 20))[:n // 20], ends=list(range(10, n, 20))[:n // 20], values=[i % 9 + .5 for i in range(n // 20)])
    return path


def make_store(path):
    from eugene.etl.seqdata import add_tracks, make_dataset, to_zarr
    gen = np.random.default_rng(0)
    ds = make_dataset(["".join(gen.choice(list("ACGT"), 20)) for _ in range(50)], gen.normal(size=50), columns={"note": [f"n{i}" for i in range(50)]})
    return to_zarr(add_tracks(ds, "signal", gen.random((50, 2, 20), np.float32)), path)


def real(data, folder):
    "Files under EUGENE_DATA, text ones cut to a few hundred lines"
    texts = {"bed": ["jund/Gcn4_peaks.sacCer3.bed", "jund/hg19-blacklist.v2.bed", "jund/JunD_GM12878_ENCFF002COV.hg19.narrowPeak.gz", "jund/JunD_K562_ENCFF001VRL.hg19.narrowPeak.gz"],
             "fasta": ["jund/NFE2_GM12878_lsgkm.pos.test.hg19.fa.gz", "formats/pysam_ex1.fa", "formats/deeptools_test1.fa"],
             "genome": ["formats/pysam_ex1.fa", "jund/sacCer3_chrIV.fa.gz", "formats/kipoiseq_hg38_chr22_32000000_32300000.fa"], "fai": ["formats/pysam_ex1.fa"],
             "table": ["jores21/jores21_leaf_dev.tsv.gz"]}
    for kind, names in texts.items():
        for name in names:
            if not (data / name).is_file(): continue
            # a name without .gz where the copy is plain: readers go by the content, and so does the judge
            yield kind, put(folder / f"{kind}-{Path(name).name}" / Path(name).name.removesuffix(".gz"), lines_of(data / name, 300))
    for kind, names in {"bam": ["deeptools_test1.bam", "deeptools_testA.bam", "deeptools_paired.bam"], "bai": ["deeptools_test1.bam", "deeptools_testA.bam", "deeptools_paired.bam"],
                        "bigwig": ["deeptools_test1.bw", "deeptools_testA.bw", "pybigwig_test.bw"]}.items():
        for name in names:
            if not (data / "formats" / name).is_file(): continue
            path = put(folder / f"{kind}-{name}" / name, (data / "formats" / name).read_bytes())
            if (data / "formats" / f"{name}.bai").is_file(): put(Path(f"{path}.bai"), (data / "formats" / f"{name}.bai").read_bytes())
            yield kind, path


# ---------------------------------------------------------------- damage

def lines_changed(change):
    def mutate(raw, gen):
        lines = raw.splitlines(keepends=True)
        return b"".join(change(lines, int(gen.integers(len(lines))), gen)) if lines else raw
    return mutate


def patched(make, most=4):
    "Overwrite a stretch at a random place"
    def mutate(raw, gen):
        raw = bytearray(raw)
        for _ in range(int(gen.integers(1, most + 1))):
            at = int(gen.integers(max(len(raw), 1)))
            new = make(gen, raw[at:at + 1])
            raw[at:at + len(new)] = new
        return bytes(raw)
    return mutate


def header(raw, gen):
    "Change bytes among the first 600"
    head = bytearray(raw[:600])
    for _ in range(int(gen.integers(1, 5))): head[int(gen.integers(len(head)))] = int(gen.integers(256))
    return bytes(head) + raw[600:]


def moved(raw, gen):
    "Swap two stretches"
    n = int(gen.integers(1, max(len(raw) // 8, 2)))
    a, b = sorted(int(v) for v in gen.integers(0, max(len(raw) - n, 1), 2))
    return raw if b - a < n else raw[:a] + raw[b:b + n] + raw[a + n:b] + raw[a:a + n] + raw[b + n:]


def field(lines, i, gen):
    "Replace one field of a line"
    words = [b"", b"-5", b"10.5", b"1e3", b"nan", b"9" * 20, b"4294967296", b"x", b" 7 ", b"0x10", b"True", b'"', b"chrX", b"NA", b"1,5", b"inf", b"+3", b"1_0", b".", b"\xc2\xb2", b"\xd9\xa3"]
    end = lines[i][len(lines[i].rstrip(b"\r\n")):]
    parts = re.split(rb"([\t,])", lines[i].rstrip(b"\r\n"))
    parts[2 * int(gen.integers((len(parts) + 1) // 2))] = words[int(gen.integers(len(words)))]
    return [*lines[:i], b"".join(parts) + end, *lines[i + 1:]]


GARBAGE = [b"\xff\xfe\x00", b"some words\n", b">\n", b"#\n", b"\t\t\t\n", b'"\n', b"track x\n", b"chr1\t5\n", b"\x1f\x8b", b";\n", b"A\n", b">again\nACGT\n", b"chr1\t9\t5\n", b",,,\n", b"  \t \n"]
HARMLESS = {"crlf": lambda raw, gen: raw.replace(b"\n", b"\r\n"), "gzip": lambda raw, gen: gzip.compress(raw, mtime=0),
            "blank lines": lines_changed(lambda lines, i, gen: [*lines[:i], b"\n", *lines[i:], b"\n\n"]), "mark": lambda raw, gen: b"\xef\xbb\xbf" + raw,
            "carriage returns": lambda raw, gen: raw.replace(b"\n", b"\r"), "no last line end": lambda raw, gen: raw.rstrip(b"\n")}
BYTES = {"cut": lambda raw, gen: raw[:int(gen.integers(len(raw)))], "flip": patched(lambda gen, old: bytes([(old or b"\0")[0] ^ 1 << int(gen.integers(8))])),
         "random bytes": patched(lambda gen, old: gen.bytes(int(gen.integers(1, 9)))), "zeros": patched(lambda gen, old: b"\0" * int(gen.integers(1, 600)), 1), "header": header,
         "moved": moved, "more": lambda raw, gen: raw + gen.bytes(int(gen.integers(1, 40))), "large number": patched(lambda gen, old: int(gen.choice([2**31 - 1, 2**32 - 1, 2**16, 2**24])).to_bytes(4, "little"), 1)}
TEXT = {**HARMLESS, "cut": BYTES["cut"], "flip": BYTES["flip"], "zeros": patched(lambda gen, old: b"\0" * int(gen.integers(1, 20)), 1),
        "line gone": lines_changed(lambda lines, i, gen: lines[:i] + lines[i + 1:]), "line twice": lines_changed(lambda lines, i, gen: lines[:i + 1] + lines[i:]),
        "lines swapped": lines_changed(lambda lines, i, gen: [*lines[:i], *lines[i + 1:], lines[i]]), "garbage": lines_changed(lambda lines, i, gen: [*lines[:i], GARBAGE[int(gen.integers(len(GARBAGE)))], *lines[i:]]),
        "tabs to blanks": lambda raw, gen: raw.replace(b"\t", b" "), "one line with blanks": lines_changed(lambda lines, i, gen: [*lines[:i], lines[i].replace(b"\t", b" "), *lines[i + 1:]]),
        "other encoding": patched(lambda gen, old: b"\xe9", 1), "utf-16": lambda raw, gen: raw.decode("latin-1").encode("utf-16"), "field": lines_changed(field), "header": header,
        "letter": patched(lambda gen, old: bytes([int(gen.choice(list(b"ACGTNXL*-0 \t>\r")))])), "cut gzip": lambda raw, gen: BYTES["cut"](gzip.compress(raw, mtime=0), gen), "flipped gzip": lambda raw, gen: BYTES["flip"](gzip.compress(raw, mtime=0), gen)}


def damage(kind, path, gen):
    "Damage a copy in place. Returns what was done, and whether it cannot matter"
    table, target = (TEXT, path) if kind in ("bed", "fasta", "genome", "table", "csv", "sizes") else (BYTES, path)
    if kind == "bai": target = Path(f"{path}.bai")
    if kind == "fai": table, target = TEXT, Path(f"{path}.fai")
    if kind == "store":
        files = sorted(p for p in path.rglob("*") if p.is_file())
        target = files[int(gen.integers(len(files)))]
        if gen.random() < .2: target.unlink(); return f"gone: {target.relative_to(path)}", False
    names, raw = list(table), target.read_bytes()
    done = [names[int(gen.integers(len(names)))] for _ in range(1 + int(gen.random() < .15))]
    for name in done: raw = table[name](raw, gen) if raw else raw
    target.write_bytes(raw)
    now = time.time()
    for p, at in ((path, now - 9), (Path(f"{path}.bai"), now), (Path(f"{path}.fai"), now)):
        if p.is_file(): os.utime(p, (at, at)) # indexes are younger than their files
    return " + ".join(done), table is TEXT and kind not in ("genome", "fai", "bai") and set(done) <= set(HARMLESS) and done.count("gzip") < 2 and done[-1] in (done[0], "gzip")


# ---------------------------------------------------------------- the reader: through eugene

def windows_for(sizes, n=5, width=200):
    "The same windows for reader and judge, from the contigs of the good file"
    gen = np.random.default_rng(3)
    names = list(sizes)[:4]
    return [(c, int(a), int(a) + width) for c in names for a in gen.integers(-50, max(sizes[c] - 100, 1), n)]


def read(kind, path, asked):
    "What `eugene` reads, as plain lists"
    import pandas as pd
    from eugene.etl import building, fasta, regions, seqdata, tables, tracks
    path = Path(path)
    if kind == "bed":
        df = regions.read_bed(path)
        return [df[c].astype(str).tolist() for c in ("chrom", "start", "end", "name") if c in df]
    if kind == "sizes": return [[k, str(v)] for k, v in regions.read_chrom_sizes(path).items()]
    if kind == "fasta":
        ds = fasta.read_fasta(path, length="pad")
        return [ds["id"].values.tolist(), seqdata.unpad(ds)]
    if kind in ("table", "csv"):
        ds = tables.read_table(path, *asked, length="pad")
        return [ds["id"].values.tolist(), seqdata.unpad(ds), ds["targets"].values[:, 0].tolist()]
    if kind == "store":
        ds = seqdata.open_zarr(path).load()
        return {k: np.asarray(v).tolist() for k, v in ds.variables.items()} | {"attrs": json.loads(json.dumps(ds.attrs))}
    frame = pd.DataFrame(asked, columns=["chrom", "start", "end"])
    how = {"edges": "pad", "out": path.parent / "out.zarr"}
    if kind in ("genome", "fai"): return seqdata.unpad(building.read_genome(frame, path, options={"cache": path.parent / "cache"}, **how).load())
    reader = building.read_bam if kind in ("bam", "bai") else building.read_bigwig
    return reader(frame, path, **how)["reads" if reader is building.read_bam else "signal"].values[:, 0].tolist()


# ---------------------------------------------------------------- the judge: by other means

def text_of(path):
    raw = Path(path).read_bytes()
    if raw[:2] == b"\x1f\x8b": raw = gzip.decompress(raw)
    text = raw.decode("utf-8-sig")
    if "\0" in text: raise ValueError("zero byte")
    return text


def judge_bed(path, asked):
    rows = [r for r in re.split("\r\n|\n|\r", text_of(path)) if r.strip() and not re.match("#|track[ \t]|browser[ \t]", r)]
    rows = [r.split("\t" if "\t" in rows[0] else None) for r in rows]
    if not rows or len({len(r) for r in rows}) > 1: raise ValueError("uneven")
    for r in rows:
        if not r[0].strip() or not all(re.fullmatch(r"\s*[+-]?\d+\s*", v, re.ASCII) for v in r[1:3]) or not 0 <= int(r[1]) < int(r[2]): raise ValueError(f"{r}")
    return [[r[0] for r in rows], [str(int(r[1])) for r in rows], [str(int(r[2])) for r in rows], *([[r[3] for r in rows]] if len(rows[0]) > 3 else [])]


def judge_sizes(path, asked):
    rows = [r.split() for r in re.split("\r\n|\n|\r", text_of(path)) if r.strip() and r[0] != "#"]
    if not rows or len({r[0] for r in rows}) < len(rows): raise ValueError("twice, or nothing")
    if not all(len(r) > 1 and re.fullmatch("[0-9]+", r[1]) and int(r[1]) for r in rows): raise ValueError("no number")
    return [[r[0], str(int(r[1]))] for r in rows]


def records(path):
    raw = Path(path).read_bytes()
    raw = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).removeprefix(b"\xef\xbb\xbf")
    names, seqs = [], []
    for line in raw.split(b"\r" if b"\n" not in raw else b"\n"):
        if line[:1] == b">":
            head = line[1:].decode()
            if not head or head[0].isspace() or "\0" in head: raise ValueError("no name")
            names.append(head.split()[0])
            seqs.append("")
        elif names: seqs[-1] += "".join(chr(v) for v in line if chr(v) not in " \t\r\n\v\f")
        elif line.strip(): raise ValueError("no header")
    if not names or len(set(names)) < len(names) or not all(re.fullmatch("[A-Za-z]+", s) for s in seqs): raise ValueError("no FASTA")
    return names, seqs


def judge_fasta(path, asked): return list(map(list, records(path)))


def judge_genome(path, asked):
    genome = dict(zip(*records(path)))
    return ["".join(genome[c][p] if 0 <= p < len(genome[c]) else "N" for p in range(a, b)) for c, a, b in asked]


def judge_table(path, asked):
    text = text_of(path)
    rows = [r for r in csv.reader(io.StringIO(text, newline=None), delimiter="," if Path(path).suffix == ".csv" else "\t") if len(r) > 1 or "".join(r).strip()]
    if len({len(r) for r in rows}) > 1: raise ValueError("uneven")
    seq, y, gene = (rows[0].index(c) for c in asked)
    ids, seqs, values = ([r[i].strip() for r in rows[1:]] for i in (gene, seq, y))
    if not all(ids) or len(set(ids)) < len(ids) or not all(re.fullmatch("[A-Za-z]+", s) for s in seqs): raise ValueError("ids or letters")
    if {v.lower() for v in values} <= {"true", "false"}: values = ["1" if v.lower() == "true" else "0" for v in values]
    if not values or not all(NUMBER.fullmatch(v) for v in values): raise ValueError("no number")
    with np.errstate(over="ignore"): out = np.array([float(v) for v in values]).astype(np.float32)
    if not np.isfinite(out).all(): raise ValueError("too large")
    return [ids, seqs, out.tolist()]


def judge_bam(path, asked):
    "All reads from first to last, without the index"
    import pysam
    out = np.zeros((len(asked), asked[0][2] - asked[0][1]), int)
    with pysam.AlignmentFile(path) as f:
        if len({c for c, _, _ in asked} - {*f.references}): raise ValueError("other chromosomes")
        for r in f.fetch(until_eof=True):
            if r.flag & 3844 or r.reference_id < 0: continue
            for i, (c, a, b) in enumerate(asked):
                if r.reference_name != c: continue
                for lo, hi in r.get_blocks(): out[i, max(lo - a, 0):max(hi - a, 0)] += 1
        for i, (c, a, b) in enumerate(asked): out[i, [not 0 <= p < f.get_reference_length(c) for p in range(a, b)]] = 0
    return out.tolist()


def judge_by_index(path, asked):
    "Reads as pysam finds them by the index"
    import pysam
    out = np.zeros((len(asked), asked[0][2] - asked[0][1]), int)
    with pysam.AlignmentFile(path) as f:
        for i, (c, a, b) in enumerate(asked):
            for r in f.fetch(c, max(a, 0), min(b, f.get_reference_length(c))) if b > 0 else ():
                for lo, hi in () if r.flag & 3844 else r.get_blocks(): out[i, max(lo - a, 0):max(hi - a, 0)] += 1
            out[i, [not 0 <= p < f.get_reference_length(c) for p in range(a, b)]] = 0
    return out.tolist()


def judge_bigwig(path, asked):
    import pyBigWig
    out = []
    with pyBigWig.open(path) as f:
        for c, a, b in asked:
            lo, hi = max(a, 0), min(b, f.chroms(c))
            out.append([0.] * (lo - a) + np.nan_to_num(np.array(f.values(c, lo, hi), np.float32)).tolist() + [0.] * (b - hi))
    return out


JUDGES = {"bed": judge_bed, "sizes": judge_sizes, "fasta": judge_fasta, "genome": judge_genome, "fai": judge_genome, "table": judge_table, "csv": judge_table, "bam": judge_bam, "bai": judge_bam, "by index": judge_by_index, "bigwig": judge_bigwig}


# ---------------------------------------------------------------- processes

def child(role):
    "Answer one line of JSON by another until there are no more"
    import warnings
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1) # what libraries print goes elsewhere
    for line in sys.stdin:
        kind, path, asked = json.loads(line)
        try: answer = {"value": read(kind, path, asked) if role == "reader" else JUDGES[kind](path, asked)}
        except Exception as e: answer = {"error": type(e).__name__, "known": isinstance(e, (ValueError, FileNotFoundError)) and not isinstance(e, UnicodeError), "says": str(e)[:600]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Process:
    "A child that is started anew after it ended"
    def __init__(self, role): self.role, self.p = role, None

    def ask(self, kind, path, asked):
        if self.p is None:
            self.p = subprocess.Popen([sys.executable, __file__, "--child", self.role], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        fresh = LIMIT + (START if not hasattr(self.p, "used") else 0) # the first answer waits for imports
        self.p.used = True
        try:
            self.p.stdin.write((json.dumps([kind, str(path), asked]) + "\n").encode())
            self.p.stdin.flush()
        except BrokenPipeError: return self.stop({"crash": self.p.wait()})
        raw, until = b"", time.monotonic() + fresh
        while not raw.endswith(b"\n"):
            if not select.select([self.p.stdout], [], [], max(until - time.monotonic(), 0))[0]: return self.stop({"hang": fresh})
            piece = os.read(self.p.stdout.fileno(), 1 << 20)
            if not piece: return self.stop({"crash": self.p.wait()})
            raw += piece
        return json.loads(raw)

    def stop(self, answer=None):
        if self.p is not None:
            self.p.kill()
            self.p.wait()
        self.p = None
        return answer


def close(a, b):
    "Equal, numbers to about six digits"
    if isinstance(a, list) and isinstance(b, list): return len(a) == len(b) and all(map(close, a, b))
    if isinstance(a, float) and isinstance(b, float): return a == b or a != a and b != b or abs(a - b) <= 1e-6 * max(abs(a), abs(b))
    return a == b


def outcome(good, got, truth, harmless, name, left):
    "The word for what happened: `good` is the reading of the good file, `truth` what the judge says"
    for word in ("crash", "hang"):
        if word in got: return word
    if left: return "litter"
    if "error" in got:
        if got["error"] == "RuntimeError" and "Zstd" in got["says"]: return "clear"
        if not got["known"] or name not in got["says"]: return "cryptic"
        return "wrong" if harmless else "clear"
    if harmless: return "same" if close(got["value"], good) else "wrong"
    return "right" if close(got["value"], truth.get("value", good)) else "wrong"


def what_to_ask(kind, path, real_table):
    "What reader and judge are asked for, from the good file"
    if kind in ("table", "csv"): return ["sequence", "enrichment", "gene"] if real_table else ["sequence", "value", "gene"]
    if kind in ("genome", "fai"): return windows_for({n: len(s) for n, s in zip(*records(path))})
    if kind in ("bam", "bai"):
        import pysam
        with pysam.AlignmentFile(str(path)) as f: starts = {c: max([r.reference_start for r in f.fetch(c)], default=0) for c in f.references}
        return windows_for({c: n for c, n in starts.items() if n} or {f.references[0]: 500})
    if kind == "bigwig":
        import pyBigWig
        with pyBigWig.open(str(path)) as f: return windows_for({c: int(max(v[1] for v in f.intervals(c))) for c in f.chroms() if f.intervals(c)})
    return None


def run(seconds, seed, out, formats, data, cases=None):
    "Damage, read and judge until the time is over. Returns how often each outcome came, by format"
    room = Path(tempfile.mkdtemp(prefix="fuzz"))
    out.mkdir(parents=True, exist_ok=True)
    reader, judge, counts, number = Process("reader"), Process("judge"), Counter(), 0
    try:
        goods = list(generated(room / "good")) + (list(real(data, room / "real")) if data else [])
        goods = [(kind, path, what_to_ask(kind, path, "jores" in path.name)) for kind, path in goods if not formats or kind in formats]
        for _, path, _ in (g for g in goods if g[0] == "fai"):
            import pysam
            pysam.faidx(str(path))
        before = {}
        for kind, path, asked in goods:
            answer = reader.ask(kind, copied(path, room / "case"), asked)
            if "value" not in answer: raise SystemExit(f"The good file {path.name} ({kind}) is not read: {answer}")
            before[path] = answer["value"]
        until = time.monotonic() + seconds
        with open(out / "cases.jsonl", "w") as log:
            while time.monotonic() < until if cases is None else number < cases:
                kind, path, asked = goods[number % len(goods)]
                case = copied(path, room / "case")
                done, harmless = damage(kind, case, np.random.default_rng([seed, number]))
                there = {p.name for p in case.parent.iterdir()}
                shutil.copytree(case.parent, room / "kept", dirs_exist_ok=False)
                got = reader.ask(kind, case, asked)
                left = sorted({p.name for p in case.parent.iterdir()} - there - {f"{case.name}.fai", "cache"} - ({"out.zarr"} if "value" in got else set()))
                truth = judge.ask(kind, room / "kept" / case.name, asked) if "value" in got and kind in JUDGES else {}
                word = outcome(before[path], got, truth, harmless, case.name, left)
                if word == "wrong" and kind == "bai" and "value" in got and close(got["value"], judge.ask("by index", room / "kept" / case.name, asked).get("value")): word = "as pysam"
                counts[kind, word] += 1
                row = {"case": number, "format": kind, "file": path.name, "damage": done, "outcome": word, **{k: got[k] for k in ("error", "says", "crash", "hang") if k in got}, **({"left": left} if left else {}), **({"judge": truth.get("says", "crash" if "crash" in truth else "reads it")} if word == "wrong" else {})}
                if "says" in row: row["says"] = row["says"].replace(str(case.parent), "...")
                log.write(json.dumps(row) + "\n")
                if word in FINDINGS:
                    print(json.dumps(row), flush=True)
                    shutil.rmtree(out / f"{number}-{word}-{kind}", ignore_errors=True)
                    shutil.copytree(room / "kept", out / f"{number}-{word}-{kind}")
                shutil.rmtree(room / "kept")
                number += 1
    finally:
        reader.stop()
        judge.stop()
        shutil.rmtree(room, ignore_errors=True)
    return counts


def copied(path, folder):
    "A fresh folder with a copy of a file or store and what lies beside it"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(path.parent, folder)
    return folder / path.name


def main():
    p = argparse.ArgumentParser(description="every reader on damaged copies of real files")
    p.add_argument("--seconds", type=float, default=120, help="how long to go on")
    p.add_argument("--cases", type=int, help="a number of cases instead of a time: the same files each time")
    p.add_argument("--seed", type=int, default=0, help="cases of another seed are others")
    p.add_argument("--formats", default="", help="bed, sizes, fasta, genome, fai, table, csv, bam, bai, bigwig, store; all if empty")
    p.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="folder for cases.jsonl and the files of findings")
    p.add_argument("--child", choices=["reader", "judge"], help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.child: return child(args.child)
    data = os.environ.get("EUGENE_DATA")
    counts = run(args.seconds, args.seed, args.out, set(filter(None, args.formats.split(","))), Path(data) if data else None, args.cases)
    words = ["same", "clear", "right", "as pysam", *FINDINGS]
    print(f"{'':8}" + "".join(f"{w:>9}" for w in words))
    for kind in sorted({k for k, _ in counts}): print(f"{kind:8}" + "".join(f"{counts[kind, w]:9}" for w in words))
    bad = sum(n for (_, w), n in counts.items() if w in FINDINGS)
    print(f"{sum(counts.values())} cases, {bad} findings{f', their files in {args.out}' if bad else ''}")
    return 1 if bad else 0


if __name__ == "__main__": sys.exit(main())
