"""Corpora of a few tiny recordings, laid out exactly as the official downloads are, traps included."""

from pathlib import Path

import numpy as np
import openpyxl
import soundfile

NISQA_HEADER = (
    "db,con,file,con_description,filename_deg,filename_ref,source,lang,votes,mos,noi,col,dis,loud,noi_std,col_std,dis_std,loud_std,"
    "mos_std,filepath_deg,filepath_ref"
)


def recording(path: Path, sampling_rate: int = 16_000) -> Path:
    """A tenth of a second of quiet noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.01 * np.random.default_rng(0).standard_normal(sampling_rate // 10)
    soundfile.write(path, noise, sampling_rate)
    return path


def text(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


#: The databases of the corpus.
NISQA_DATABASES = tuple(f"NISQA_TEST_{name}" for name in ("FOR", "LIVETALK", "P501")) + tuple(
    f"NISQA_{part}_{kind}" for part in ("TRAIN", "VAL") for kind in ("LIVE", "SIM")
)


def nisqa(root: Path, databases: tuple[str, ...] = NISQA_DATABASES[:2]) -> Path:
    """TEST_FOR and TEST_LIVETALK (which has no references), or others, three clips each, in both kinds of label file."""
    root = root / "NISQA_Corpus"
    rows = []
    for db in databases:
        own, has_reference = [], "LIVE" not in db
        for number, mos in enumerate((1.5, 3.25, 4.5), 1):
            name = f"c{number:05d}_clip_m_0103_01.wav"
            deg, ref = f"{db}/deg/{name}", f"{db}/ref/clip_m_0103.wav" if has_reference else ""
            recording(root / deg, 48_000)
            if ref:
                recording(root / ref, 48_000)
            scores = f"{mos},{number + 1},3.{number},4.{number},{number},1,1,1,1,0.5"
            own.append(f"{db},{number},{number},,{name},{Path(ref).name},s,en,24,{scores},{deg},{ref}")
        text(root / db / f"{db}_file.csv", NISQA_HEADER, *own)
        rows += own
    text(root / "NISQA_corpus_file.csv", NISQA_HEADER, *rows)
    return root


def pstn(root: Path) -> Path:
    folder = root / "pstn_train"
    names = ["0001_call_a.wav", "0001_call_b.wav", "0002_call_a.wav"]
    for name in names:
        recording(folder / name, 8_000)
    rows = [f"{name},{mos},0.8,0.7,5" for name, mos in zip(names, (1.8, 2.6, 4.2), strict=True)]
    text(folder / "pstn_train.csv", "filename,MOS,std,95%CI,votes", *rows)
    return root


def tencent(root: Path) -> Path:
    """Names begin with `./`, and the folder with reverberation is called as its label file."""
    folder = root / "TencentCorups"
    for kind, sub in (("without", "withoutReverberationTrainDev"), ("with", "withReverberationTrainDevMOS")):
        names = [f"{sub}/{number:05d}.wav" for number in (1, 2)]
        for name in names:
            recording(folder / name)
        rows = [f"./{name},{mos}" for name, mos in zip(names, (1.9, 3.7), strict=True)]
        text(folder / f"{kind}ReverberationTrainDevMOS.csv", "deg_wav,mos", *rows)
    return root


def iub(root: Path, factor: float = 1.0) -> Path:
    """Ratings of 0-10 times `factor`: 10 gives 0-100."""
    for part in ("cosine", "voices"):
        for number in (1, 2, 3):
            recording(root / "audio" / part / f"{number}.wav")
        rows = [f"audio/{part}/{number}.wav,{factor * score}" for number, score in ((1, 0.0), (2, 2.5), (3, 10.0))]
        text(root / f"{part}_ratings.csv", "filename,mos", *rows)
    return root


def bvcc(root: Path) -> Path:
    """No header, a row a rating, and names without suffix in `ood`."""
    for part, suffix in (("main", ".wav"), ("ood", "")):
        data = root / part / "DATA"
        for system, file in (("sysa", "TRAINSET"), ("sysb", "DEVSET"), ("sysc", "TESTSET")):
            name = f"{system}-utt{file.lower()[:4]}"
            recording(data / "wav" / f"{name}.wav")
            rows = [
                f"{system},{name}{suffix},{rating},VDP1,{{}}_30-39_listener{number}_Female_Valid_1_No"
                for number, rating in enumerate((2, 3, 4, 5) if system == "sysa" else (1, 2, 2, 2))
            ]
            text(data / "sets" / file, *rows)
    return root


def tmhint_qi(root: Path, num_train: int = 1, num_test: int = 1) -> Path:
    """A row a rating without a listener, names without suffix, one quality score left empty."""
    folder = root / "TMHINTQI"
    names = {f"FCN_snr-2_babble_TMHINT_b2_21_{2 + number:02d}": "train" for number in range(num_train)}
    names |= {f"KLT_snr5_pink_TMHINT_g1_03_{7 + number:02d}": "test" for number in range(num_test)}
    rows = []
    for number, (name, split) in enumerate(names.items()):
        recording(folder / split / f"{name}.wav")
        method, snr, noise = name.split("_")[:3]
        for rating in (2 + number % 3, 4, ""):
            rows.append(f"{len(rows)},{method},{name[-8:]},{snr[3:]},{noise},{rating},{7 - number % 7},{name}")
    text(folder / "raw_data.csv", "idx,method,uttr,snr,noise,quality_score,intelligibility_score,file_name", *rows)
    return root


def somos(root: Path) -> Path:
    for file, system in (("TRAINSET", "015"), ("VALIDSET", "016"), ("TESTSET", "000")):
        name = f"novel_2007_0098_{system}.wav"
        recording(root / "audios" / name, 24_000)
        rows = [f"{system},{name},{choice},listener{choice}" for choice in (2, 3 + int(system) % 2)]
        for part in ("full", "clean"):
            text(root / "training_files" / "split1" / part / file, "systemId,utteranceId,choice,listenerId", *rows)
    return root


def tcd_voip(root: Path, as_csv: bool = False) -> Path:
    """A folder a degradation, labels in a sheet that is not the first, or in a CSV with a byte order mark."""
    rows = []
    for condition, kind, mos in ((1, "ECHO", 2.25), (1, "NOISE", 3.5)):
        for talker in ("FA", "ML"):
            stem = f"{condition:02d}_{kind}_{talker}.wav"
            recording(root / kind.lower() / f"C_{stem}", 48_000)
            recording(root / kind.lower() / f"R_{stem}", 48_000)
            rows.append((f"C_{stem}", condition if kind == "ECHO" else 21, mos))
    if as_csv:
        lines = [f"{name},{condition},{mos}" for name, condition, mos in rows]
        text(root / "answer.csv", "Filename,ConditionID,MOS", *lines, encoding="utf-8-sig")
    else:
        xlsx(
            root / "scores.xlsx",
            {"Notes": [("hello",)], "Subjective Test Scores": [("Filename", "ConditionID", "sample MOS"), *rows]},
        )
    return root


def singmos(root: Path) -> Path:
    for file, number in (("train", 1), ("val", 2), ("eval", 3)):
        name = f"voicemos2024-track2-sys{number:04d}-utt0001"
        recording(root / "DATA" / "wav" / f"{name}.wav")
        text(root / "DATA" / "sets" / f"{file}_mos_list.txt", f"{name},{number + 0.5}")
    return root


def vmc2023(root: Path) -> Path:
    names = {
        "VoiceMOS2023Track1-A-AD_test_0026": 4.42,
        "VoiceMOS2023Track1-B-NEB_test_0001": 3.0,
        "VoiceMOS2023Track2-T01_x": 2.0,
        "VoiceMOS2023Track3-CMGAN_snr-2_babble_TMHINT_b2_21_02": 1.14,
        "VoiceMOS2023Track3-TMHINT_b2_21_02": 5.0,
    }
    for name in names:
        recording(root / name[:20] / f"{name}.wav")
    text(root / "answer.csv", *(f"{name},{mos}" for name, mos in names.items()))
    return root


def vmc2024(root: Path) -> Path:
    names = [f"voicemos2024-track3-{number:03d}" for number in (1, 2)]
    for name in names:
        recording(root / "wav" / f"{name}.wav")
    text(root / "answer.csv", "systems,SIG,BAK,OVR", f"{names[0]},3.5,2.5,2.8", f"{names[1]},4.5,4.0,4.1")
    text(root / "a_listeners.csv", "sample_id,listener_name,score", f"{names[0]},x,3", encoding="utf-8-sig")
    return root


def xlsx(path: Path, sheets: dict) -> Path:
    """An Excel file of sheets, each a list of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path
