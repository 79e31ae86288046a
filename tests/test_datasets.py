"Downloads against servers with bad manners, and every data set on its real files. Real data skip where the files are not."
import contextlib
import gzip
import http.server
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eugene.core import sha256
from eugene.etl import datasets, downloads
from eugene.etl.datasets import CARDS, FILES, available, card, dealmeida22, find_data, jores21, jund, jund_peaks, random1000, ray13
from eugene.etl.downloads import DataFile, check_content, download, find_file, locate
from eugene.etl.seqdata import check_dataset, get_split, open_zarr, to_zarr
from eugene.etl.sequences import from_bytes, ohe
from eugene.etl.simulation import simulate

CONTENT = np.random.default_rng(0).bytes(300_000)
JUND = [n.split("/")[1] for n, c in CARDS.items() if c.call.startswith("jund(")]
PEAKS = [n.split("/")[1].removeprefix("peaks-") for n, c in CARDS.items() if c.call.startswith("jund_peaks(")]


# ---------------------------------------------------------------- downloads

class Rude(http.server.BaseHTTPRequestHandler):
    "A server whose manners are class variables"
    content, ranges, cut, length, tag, status, zipped, slow, lie = CONTENT, True, None, True, "etag", 200, False, False, 0

    def log_message(self, *args): pass

    def do_GET(self):
        self.server.seen.append(dict(self.headers))
        data, asked = self.content, self.headers.get("Range")
        mark = f'"{hash(data)}"' if self.tag == "etag" else "Tue, 24 Nov 2026 10:00:00 GMT"
        start = int(asked[6:-1]) if asked and self.ranges and self.headers.get("If-Range") == mark else 0
        if self.status != 200: return self.send_error(self.status)
        if start and start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start: self.send_header("Content-Range", f"bytes {start + self.lie}-{len(data) - 1}/{len(data)}")
        if self.length: self.send_header("Content-Length", str(len(data) - start))
        if self.zipped: self.send_header("Content-Encoding", "gzip")
        if self.tag == "etag": self.send_header("ETag", mark)
        if self.tag == "weak": self.send_header("ETag", "W/" + mark)
        if self.tag == "date": self.send_header("Last-Modified", mark)
        self.end_headers()
        body = data[start:][:self.cut]
        for i in range(0, len(body), 50_000):
            try: self.wfile.write(body[i:i + 50_000])
            except OSError: return
            if self.slow: time.sleep(.2)


@pytest.fixture(autouse=True)
def a_cache_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("EUGENE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@contextlib.contextmanager
def served(**manners):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Server", (Rude,), manners))
    server.seen = []
    threading.Thread(target=lambda: server.serve_forever(.02), daemon=True).start()
    try: yield f"http://127.0.0.1:{server.server_address[1]}/big.bin", server.seen
    finally:
        server.shutdown()
        server.server_close()


def digest(content, tmp_path):
    (tmp_path / "digest").write_bytes(content)
    return sha256(tmp_path / "digest")


def names(folder): return sorted(p.name for p in Path(folder).rglob("*") if p.is_file())


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("manners, second", [({}, "bytes=100000-"), ({"tag": "date"}, "bytes=100000-"), ({"tag": "weak"}, None), ({"tag": None}, None), ({"ranges": False}, "bytes=100000-")], ids=str)
def test_a_cut_transfer_ends_in_the_right_bytes(manners, second, known, tmp_path):
    "Whatever the server can do, what gets the final name is the whole; only a strong mark lets it go on"
    sha = digest(CONTENT, tmp_path) if known else ""
    with served(**manners, cut=100_000) as (url, _), pytest.raises(FileNotFoundError, match="100,000 bytes are kept in .*big.bin.part; call again"):
        download(DataFile("big.bin", sha, url=url), tmp_path / "data", tries=1)
    assert "big.bin" not in names(tmp_path / "data")
    with served(**manners) as (url, seen):
        path = download(DataFile("big.bin", sha, url=url), tmp_path / "data")
    assert path.read_bytes() == CONTENT and seen[0].get("Range") == second and len(seen) == 1
    assert names(tmp_path / "data") == ["big.bin"] + ["big.bin.sha256"] * (not known)


def test_a_cut_transfer_is_taken_up_at_once(tmp_path):
    with served(cut=120_000) as (url, seen): path = download(DataFile("big.bin", url=url), tmp_path, tries=3)
    assert path.read_bytes() == CONTENT and [s.get("Range") for s in seen] == [None, "bytes=120000-", "bytes=240000-"]


def test_a_file_that_changed_at_its_source_is_never_mixed(tmp_path):
    with served(cut=100_000) as (url, _), pytest.raises(FileNotFoundError): download(DataFile("big.bin", url=url), tmp_path, tries=1)
    with served(content=CONTENT[::-1]) as (url, _): assert download(DataFile("big.bin", url=url), tmp_path).read_bytes() == CONTENT[::-1]


def test_a_server_that_sends_the_wrong_piece(tmp_path):
    with served(cut=100_000) as (url, _), pytest.raises(FileNotFoundError): download(DataFile("big.bin", url=url), tmp_path, tries=1)
    with served(lie=7) as (url, seen): path = download(DataFile("big.bin", url=url), tmp_path, tries=2)
    assert path.read_bytes() == CONTENT and [s.get("Range") for s in seen] == ["bytes=100000-", None]


def test_wrong_bytes_are_thrown_away(tmp_path):
    with served() as (url, seen), pytest.raises(ValueError, match="expected " + "a" * 64):
        download(DataFile("big.bin", "a" * 64, url=url), tmp_path / "data")
    assert names(tmp_path / "data") == [] and len(seen) == 1


@pytest.mark.parametrize("status", [403, 404, 500])
def test_an_answer_that_is_no_file(status, tmp_path):
    with served(status=status) as (url, seen), pytest.raises(FileNotFoundError, match=f"HTTPError: {status}.*pass `path=`"):
        download(DataFile("big.bin", url=url), tmp_path / "data")
    assert names(tmp_path / "data") == [] and len(seen) == 1


def test_an_empty_answer(tmp_path):
    with served(content=b"") as (url, seen), pytest.raises(FileNotFoundError, match="0 of 0 bytes came"): download(DataFile("big.bin", url=url), tmp_path, tries=2)
    assert "big.bin" not in names(tmp_path) and len(seen) == 2


def test_a_short_answer_is_noticed_whatever_the_library_thinks(tmp_path, monkeypatch):
    class Short:
        headers, status_code = {"Content-Length": "10"}, 200
        raw = type("Raw", (), {"stream": lambda self, *a, **k: iter([b"ACGT"])})()
        def raise_for_status(self): pass
        def __enter__(self): return self
        def __exit__(self, *why): pass
    monkeypatch.setattr(downloads, "_ask", lambda *a: Short())
    with pytest.raises(FileNotFoundError, match="4 of 10 bytes came"): download(DataFile("big.bin", url="http://127.0.0.1/x"), tmp_path)
    assert "big.bin" not in names(tmp_path)


def test_no_length_and_a_packed_file(tmp_path):
    "Bytes are stored as the file has them, even if the server calls its own .gz an encoding"
    packed = gzip.compress(b"sequence\nACGT\n" * 1000)
    with served(content=packed, zipped=True, length=False) as (url, seen): path = download(DataFile("t.tsv.gz", url=url), tmp_path)
    assert path.read_bytes() == packed and seen[0]["Accept-Encoding"] == "identity"


def test_an_interrupt_keeps_what_came(tmp_path, monkeypatch):
    real = downloads._ask

    class Pulled:
        def __init__(self, answer): self.answer, self.blocks = answer, 0
        def stream(self, *args, **kw):
            for block in self.answer.raw.stream(*args, **kw):
                yield block
                self.blocks += 1
                if self.blocks == 2: raise KeyboardInterrupt

    def ask(*args):
        answer = real(*args)
        class Half:
            headers, status_code, raw, raise_for_status = answer.headers, answer.status_code, Pulled(answer), answer.raise_for_status
            def __enter__(self): return self
            def __exit__(self, *why): answer.close()
        return Half()
    monkeypatch.setattr(downloads, "_ask", ask)
    with served() as (url, _), pytest.raises(KeyboardInterrupt): download(DataFile("big.bin", url=url), tmp_path)
    assert names(tmp_path) == ["big.bin.part", "big.bin.part.mark"]
    kept = (tmp_path / "big.bin.part").stat().st_size
    assert 0 < kept < len(CONTENT)
    monkeypatch.setattr(downloads, "_ask", real)
    with served() as (url, seen): assert download(DataFile("big.bin", url=url), tmp_path).read_bytes() == CONTENT
    assert seen[0]["Range"] == f"bytes={kept}-"


def test_a_full_disk_is_not_called_a_bad_connection(tmp_path, monkeypatch):
    def full(*args): raise OSError(28, "No space left on device")
    monkeypatch.setattr(downloads, "_fetch", full)
    with pytest.raises(OSError, match="No space left") as error: download(DataFile("big.bin", url="http://127.0.0.1/x"), tmp_path)
    assert not isinstance(error.value, FileNotFoundError) and "big.bin" not in names(tmp_path)


def test_the_record_holds_for_a_second_download(tmp_path):
    with served() as (url, _): path = download(DataFile("big.bin", url=url), tmp_path)
    assert (tmp_path / "big.bin.sha256").read_text().split()[0] == sha256(path)
    path.unlink()
    with served(content=CONTENT + b"!") as (url, _), pytest.raises(ValueError, match="recorded in .*big.bin.sha256 at an earlier download"):
        download(DataFile("big.bin", url=url), tmp_path)
    assert names(tmp_path) == ["big.bin.sha256"]
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match="damaged, incomplete"): check_content(path, DataFile("big.bin"))


def test_the_bar_counts_bytes(tmp_path, capsys):
    with served() as (url, _): download(DataFile("big.bin", url=url), tmp_path / "a", progress=True)
    told = capsys.readouterr().err
    assert "big.bin" in told and "300k" in told
    with served() as (url, _): download(DataFile("big.bin", url=url), tmp_path / "b")
    assert capsys.readouterr() == ("", "")


def test_finding_goes_path_environment_cache_address(tmp_path, monkeypatch):
    with served() as (url, seen):
        file = DataFile("lab/big.bin", digest(CONTENT, tmp_path), url=url)
        assert locate(file) == ("download", None)
        assert find_file(file) == tmp_path / "cache/lab/big.bin" == find_file(file) and len(seen) == 1
        for name in ("environment", "mine"):
            (tmp_path / name / "lab").mkdir(parents=True)
            shutil.copy(tmp_path / "cache/lab/big.bin", tmp_path / name / "lab/big.bin")
        monkeypatch.setenv("EUGENE_DATA", str(tmp_path / "environment"))
        assert locate(file) == ("EUGENE_DATA", tmp_path / "environment/lab/big.bin")
        for given in ("mine", "mine/lab", "mine/lab/big.bin"): assert find_file(file, tmp_path / given) == tmp_path / "mine/lab/big.bin"
        with pytest.raises(FileNotFoundError, match="in `path`.*can be fetched from http"): find_file(file, tmp_path / "nowhere")
        assert len(seen) == 1


# ---------------------------------------------------------------- cards

def test_every_card_is_complete():
    for name, c in CARDS.items():
        assert card(name) is c and c.what and c.citation and c.source and c.licence and c.call, name
        for place in (p for places in c.files.values() for p in places):
            assert FILES[place].path == place and (FILES[place].url or FILES[place].sha256) and (FILES[place].url or FILES[place].source)
            assert Path(place).name in repr(c) and (FILES[place].sha256 or "first download") in repr(c)
    assert {n.split("/")[0] for n in CARDS} == {"jores21", "ray13", "jund", "dealmeida22", "random1000", "simulate"}


def test_every_call_of_a_card_is_one_that_exists():
    for c in CARDS.values():
        verb = c.call.split("(")[0].split(".")[-1]
        assert callable(getattr(datasets, verb, None)) or verb == "simulate", c.call


def test_available_says_where_files_are(data_dir, monkeypatch):
    monkeypatch.delenv("EUGENE_DATA", raising=False)
    away = available().set_index(["name", "scale"])
    assert set(away.found) == {"missing", "download", "generated"}
    here = available(data_dir).set_index(["name", "scale"])
    assert (here.xs("sample", level="scale").found == "`path`").all() and (here.xs("full", level="scale").drop("jores21/evolution").found == "missing").all()
    monkeypatch.setenv("EUGENE_DATA", str(data_dir))
    table = available().set_index(["name", "scale"])
    assert (table.xs("sample", level="scale").found == "EUGENE_DATA").all()
    for (name, scale), row in table[table.found == "EUGENE_DATA"].iterrows():
        sizes = [(data_dir / p).stat().st_size for p in CARDS[name].files[scale]]
        assert row.bytes == sum(sizes), name


def test_generated_sets():
    a, b = random1000(3), random1000(3)
    assert a.identical(b) and check_dataset(a) is a and not random1000(4).equals(a)
    letters = np.unique(a.seq.values, return_counts=True)
    assert letters[0].tobytes() == b"ACGT" and np.abs(letters[1] / 1e5 - .25).max() < .01
    assert "simulated" in a.attrs and simulate(20).ds.attrs["simulated"]


# ---------------------------------------------------------------- real files

@pytest.mark.parametrize("place", [f.path for f in FILES.values() if f.sha256])
def test_the_registry_describes_the_files(place, data_dir):
    path, file = find_data(place, path=data_dir), FILES[place]
    assert path.stat().st_size == file.size
    with (gzip.open if place.endswith(".gz") else open)(path, "rt") as f: lines = f.read().splitlines()
    if ".fa" in place: assert sum(line.startswith(">") for line in lines) == file.rows
    elif place.endswith((".bed", "narrowPeak.gz")): assert len(lines) == file.rows
    elif not place.endswith(".meme"): assert len(lines) - 1 == file.rows


@pytest.fixture(scope="module")
def probes(data_dir):
    return ray13(split=True, path=data_dir)


def test_rnacompete_probes(probes):
    assert probes.sizes["sequence"] == 241_357 and probes.seq.shape[1] == 41 and probes.attrs["alphabet"] == "RNA"
    assert dict(zip(*np.unique(probes.Probe_Set.values.astype(str), return_counts=True))) == {"SetA": 120_326, "SetB": 121_031}
    assert get_split(probes, "train").sizes["sequence"] == 120_326 and set(get_split(probes, "test").Probe_Set.values) == {"SetB"}
    sizes = dict(zip(*np.unique(probes.length.values, return_counts=True)))
    assert {n: sizes[n] for n in (30, 35, 38, 39, 41)} == {30: 35_866, 35: 62_011, 38: 140_089, 39: 2_951, 41: 436} and min(sizes) == 30
    y = probes.targets.values.astype(float)
    assert y.shape[1] == 19 and np.isfinite(y).all() and (y.min(0) == 0).all()
    assert 1.3 <= y.mean(0).min().round(1) and y.mean(0).max() < 2.35 and 3.9 < y.max(0).min() and y.max() < 8.5
    text = from_bytes(probes.seq.values[:500])
    assert all(s.startswith(("AGA", "AGG")) for s in text)
    assert (ohe(probes.seq.values[:2000], alphabet="RNA").sum((1, 2)) == probes.length.values[:2000]).all()


def test_rnacompete_agrees_with_pandas(probes, data_dir):
    raw = pd.read_csv(data_dir / "ray13/rnacompete_probes_19rbp.tsv.gz", sep="\t")
    assert probes.target.values.tolist() == raw.columns[2:].tolist()
    assert np.array_equal(probes.targets.values, raw.iloc[:, 2:].to_numpy(np.float32))
    some = ray13(rbps=["RBP24", "RBP04"], path=data_dir / "ray13/rnacompete_probes_19rbp.tsv.gz")
    assert some.target.values.tolist() == ["RBP24", "RBP04"] and set(some.data_vars) == {"seq", "length", "targets", "Probe_Set"}
    assert np.array_equal(some.targets.values, raw[["RBP24", "RBP04"]].to_numpy(np.float32))


def test_a1cf_probes_are_among_all(probes, data_dir):
    one = ray13("RNCMPT00001", path=data_dir)
    assert one.sizes["sequence"] == 60_000 and (one.Probe_Set.values == "SetA").sum() == 30_000 and one.target.values.tolist() == ["RNCMPT00001"]
    assert -3.5 < one.targets.values.min() < -3.3 and 54 < one.targets.values.max() < 56
    sides = dict(zip(from_bytes(probes.seq.values), probes.Probe_Set.values))
    padded = from_bytes(np.pad(one.seq.values, ((0, 0), (0, 41 - one.sizes["position"])), constant_values=ord("N")))
    assert all(sides[s] == p for s, p in zip(padded, one.Probe_Set.values))


@pytest.mark.parametrize("which", JUND)
def test_bound_sequences(which, data_dir, tmp_path):
    ds, c = jund(which, path=data_dir), CARDS[f"jund/{which}"]
    assert ds.sizes["sequence"] == sum(FILES[p].rows for p in c.files["sample"]) and tuple(ds.target.values if "target" in ds else ()) == c.targets
    assert set(np.unique(ds.seq.values)) <= set(b"ACGTacgtN")
    assert open_zarr(to_zarr(ds, tmp_path / "x.zarr")).identical(ds)
    if "chrom" in ds:
        size = ds.length.values if "length" in ds else ds.sizes["position"]
        assert (ds.end.values - ds.start.values == size).all()
    if "padded" not in c.length: assert (ohe(ds.seq.values).sum(1) == 1).all()
    if c.targets: assert set(ds.set.values) == {"train", "test"} and set(ds.targets.values.ravel()) == {0, 1}
    elif "chrom" in ds: assert not {"chr4", "chr8"} & set(ds.chrom.values)


SITES = {"H1-UBM": (.295, .050), "H1": (.254, .047), "GM12878": (.466, .007), "HeLa-S3": (.567, .017), "HepG2": (.532, .187), "K562": (.216, .013)}


@pytest.mark.parametrize("which", SITES)
def test_the_sites_of_jund_are_there(which, data_dir):
    "Share of sequences with TGA[CG]TCA and with TGACGTCA, near what was counted with all chromosomes"
    text = pd.Series(from_bytes(jund(which, path=data_dir).seq.values)).str.upper()
    assert abs(text.str.contains("TGA[CG]TCA").mean() - SITES[which][0]) < .015 and abs(text.str.contains("TGACGTCA").mean() - SITES[which][1]) < .01


def test_labels_of_the_relatives(data_dir):
    nfe2, myc = jund("NFE2", path=data_dir), jund("MYC", path=data_dir)
    count = lambda ds: pd.crosstab(ds.set.values.astype(str), ds.targets.values[:, 0].astype(int)).to_dict("index")
    assert count(nfe2) == {"train": {0: 644, 1: 644}, "test": {0: 69, 1: 69}}
    assert count(myc) == {"train": {0: 0, 1: 4051}, "test": {0: 500, 1: 500}}
    shuffled = pd.Series(myc.EventID.values).str.endswith("_shuf")
    assert ((myc.targets.values[:, 0] == 0) == shuffled).all()
    text = pd.Series(from_bytes(nfe2.seq.values)).str.upper()
    share = lambda site: text.str.contains(site).groupby(nfe2.targets.values[:, 0]).mean().round(2).tolist()
    assert share("CACGTG") == [.04, .76] and share("TGA[CG]TCA") == [.03, .07]  # as the card says


@pytest.mark.parametrize("which", [w for w in PEAKS if w != "H1-hg38"])
def test_peaks(which, data_dir):
    df = jund_peaks(which, path=data_dir)
    assert len(df) == FILES[CARDS[f"jund/peaks-{which}"].files["sample"][0]].rows and (df.start < df.end).all() and df.columns[:3].tolist() == ["chrom", "start", "end"]
    if which in SITES: assert not {"chr4", "chr8"} & set(df.chrom)


def test_counts_of_the_data_description(data_dir):
    h1, gcn4 = jund("H1", path=data_dir), jund_peaks("Gcn4", path=data_dir)
    assert [(h1.chrom.values == c).sum() for c in ("chr2", "chr3")] == [542, 482]
    assert [(gcn4.chrom == c).sum() for c in ("chrIV", "chrII")] == [84, 41]
    assert sorted((gcn4.end - gcn4.start)[gcn4.chrom == "chrIV"])[42] == 372
    peaks = jund_peaks("GM12878", path=data_dir)
    gm = jund("GM12878", path=data_dir)
    middle = {(c, (s + e) // 2) for c, s, e in zip(gm.chrom.values, gm.start.values, gm.end.values)}
    centred = [(c, (s + e) // 2) in middle for c, s, e in zip(peaks.chrom, peaks.start, peaks.end)]
    assert np.mean(centred) > .95  # the sequences are centred on the peaks


def test_a_file_under_the_wrong_name_is_refused(data_dir, tmp_path):
    (tmp_path / "jund").mkdir()
    shutil.copy(data_dir / "jund/JunD_H1hesc_ENCFF001UBM.hg19.200bp.fa.gz", tmp_path / "jund/JunD_H1hesc_ENCFF002CIZ.hg19.200bp.fa.gz")
    with pytest.raises(ValueError, match="ENCFF002CIZ.*has SHA-256.*another version"): jund("H1", path=tmp_path)
    with pytest.raises(ValueError, match="4 files, and `path` is one file"): jund("NFE2", path=data_dir / "jund/NFE2_GM12878_lsgkm.pos.test.hg19.fa.gz")


# ---------------------------------------------------------------- formats that are not at hand, in small

def small(monkeypatch, folder, place, text, rows):
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if place.endswith(".gz") else text.encode())
    monkeypatch.setitem(FILES, place, DataFile(place, "", rows, FILES[place].url))
    return path


def test_the_complete_rnacompete_table_in_small(monkeypatch, tmp_path):
    "244 experiments, tabs or blanks, holes as NaN or NA; what is not measured stays not measured"
    gen = np.random.default_rng(1)
    head = ["Probe_Set", "RNA_Seq", *(f"RNCMPT{i:05}" for i in range(1, 245))]
    y = gen.normal(size=(6, 244)).round(4)
    holes = gen.random(y.shape) < .2
    for sep, hole in (("\t", ""), ("\t", "NaN"), (" ", "NA"), ("  ", "NaN")):
        rows = [sep.join(["Set" + "AB"[i % 2], "AGA" + "ACGU" * (7 + i % 3), *(hole if h else str(v) for v, h in zip(y[i], holes[i]))]) for i in range(6)]
        small(monkeypatch, tmp_path, "ray13/norm_data.txt.gz", "\n".join([sep.join(head), *rows]) + "\n", 6)
        ds = ray13("norm", split=True, path=tmp_path)
        assert np.array_equal(ds.targets.values, np.where(holes, np.nan, y).astype(np.float32), equal_nan=True), (sep, hole)
        assert ds.attrs["scale"] == "full" and ds.split.values.tolist() == ["train", "test"] * 3
    damaged = tmp_path / "ray13/norm_data.txt.gz"
    damaged.write_bytes(damaged.read_bytes()[:-400])
    with pytest.raises(ValueError, match="norm_data.txt.gz"): ray13("norm", path=tmp_path)


def test_fly_enhancers_in_small_by_download(monkeypatch, tmp_path):
    gen = np.random.default_rng(2)
    seqs = ["".join(gen.choice(list("ACGT"), 249)) for _ in range(4)]
    heads = [f"chr2L_{100 * i + 1}_{100 * i + 249}_{'+-'[i % 2]}_{'positive_peaks' if i else 'negative'}" for i in range(4)]
    fasta = "".join(f">{h}\n{s[:120]}\n{s[120:]}\n" for h, s in zip(heads, seqs))
    frame = pd.DataFrame(gen.normal(size=(4, 6)).round(5), columns=[f"{k}_log2_enrichment{end}" for end in ("", "_scaled", "_quantile_normalized") for k in ("Dev", "Hk")])
    with served(content=fasta.encode()) as (a, _), served(content=frame.to_csv(sep="\t", index=False).encode()) as (b, _):
        monkeypatch.setitem(FILES, "dealmeida22/Sequences_Train.fa", DataFile("dealmeida22/Sequences_Train.fa", "", 4, a))
        monkeypatch.setitem(FILES, "dealmeida22/Sequences_activity_Train.txt", DataFile("dealmeida22/Sequences_activity_Train.txt", "", 4, b))
        monkeypatch.delenv("EUGENE_DATA", raising=False)
        ds = dealmeida22("train")
    assert from_bytes(ds.seq.values) == seqs and ds.id.values.tolist() == heads
    assert np.array_equal(ds.targets.values, frame.iloc[:, :2].to_numpy(np.float32)) and set(frame.columns[2:]) <= set(ds.data_vars)
    assert (ds.end - ds.start == 249).all() and ds.start.values.tolist() == [0, 100, 200, 300] and ds.strand.values.tolist() == ["+", "-"] * 2
    assert dealmeida22("train").identical(ds)  # from the cache, without a server
    (tmp_path / "cache/dealmeida22/Sequences_activity_Train.txt").write_text("changed")
    with pytest.raises(ValueError, match="Sequences_activity_Train.txt has SHA-256"): dealmeida22("train")


def test_published_scale_by_download(monkeypatch, tmp_path):
    monkeypatch.delenv("EUGENE_DATA", raising=False)
    table = "set\tsp\tgene\tsequence\tenrichment\n" + "".join(f"{{}}\tAt\tg{i}\t{'ACGT' * 42}{'AC'}\t{i}\n" for i in range(3))
    with contextlib.ExitStack() as stack:
        for part in ("train", "test"):
            url, _ = stack.enter_context(served(content=table.replace("{}", part).encode()))
            monkeypatch.setitem(FILES, f"jores21/CNN_{part}_leaf.tsv", DataFile(f"jores21/CNN_{part}_leaf.tsv", "", 3, url))
        ds = jores21("leaf", scale="full")
    assert ds.set.values.tolist() == ["train"] * 3 + ["test"] * 3 and jores21("leaf", scale="full").identical(ds)
    with pytest.raises(ValueError, match="expected " + "2" * 64): jores21("leaf", scale="full", sha256={"CNN_test_leaf.tsv": "2" * 64})
