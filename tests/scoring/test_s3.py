"""A corpus in a bucket, read by the real s3fs from a double of S3 on loopback: what lies there, and what goes wrong on the way."""

import functools
import io
import json
import tarfile

import pyarrow
import pyarrow.parquet
import pytest
from s3_double import S3Double
from test_run import checksum, table

from hf_sqa.cli import app
from hf_sqa.scoring import open_source, remote, score_corpus
from hf_sqa.scoring.decoding import Decoding, load
from hf_sqa.scoring.items import Item

s3fs = pytest.importorskip("s3fs", reason="needs s3fs: pip install 'hf-sqa[s3]'", exc_type=ImportError)


@pytest.fixture(scope="module")
def services():
    """The descriptions of AWS's services, megabytes of JSON that botocore reads for every client, are read once."""
    from botocore.loaders import JSONFileLoader

    once = functools.cache(JSONFileLoader().load_file)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(JSONFileLoader, "load_file", lambda self, path: once(path))
        yield


@pytest.fixture
def bucket(services, clips, monkeypatch, tmp_path):
    """The double, with the twelve clips under `folder/`, the mark of an empty folder, and the credentials to read them."""
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # of botocore, for lists and archives
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(remote, "RETRY_SECONDS", (0.01, 0.02, 0.03))
    s3fs.S3FileSystem.clear_instance_cache()
    with S3Double() as s3:
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
        s3.objects = {f"folder/{path.name}": path.read_bytes() for path in clips.glob("*.wav")} | {"folder/": b""}
        yield s3
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def score(tiny_scorer):
    """`score(source, output, **options)` with the tiny model in this process, three rows a shard."""

    def run(source, output, **options):
        return score_corpus(source, output, scorer=tiny_scorer, **{"num_workers": 0, "rows_per_shard": 3, **options})

    return run


def scores(output):
    """Score of every row of an output folder."""
    return [next(row[name] for name in row if name.startswith("mos__")) for row in table(output)]


def tar_of(objects):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for key in sorted(key for key in objects if key.endswith(".wav")):
            header = tarfile.TarInfo(key.rpartition("/")[2])
            header.size = len(objects[key])
            archive.addfile(header, io.BytesIO(objects[key]))
    return content.getvalue()


def parquet_of(objects):
    keys = sorted(key for key in objects if key.endswith(".wav"))
    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"audio": [{"bytes": objects[key], "path": key} for key in keys]}), content)
    return content.getvalue()


@pytest.mark.parametrize("name", ["folder/", "folder/*.wav", "lists/m.jsonl", "lists/m.csv", "a.tar", "a.parquet"])
def test_whatever_lies_in_a_bucket_gives_the_scores_of_the_same_files_on_a_disk(name, bucket, clips, score, tmp_path):
    names = [f"{index:02d}.wav" for index in range(12)]
    bucket.objects["lists/m.jsonl"] = "\n".join(json.dumps({"path": f"../folder/{one}"}) for one in names).encode()
    bucket.objects["lists/m.csv"] = "\n".join(["path", *(f"s3://bucket/folder/{one}" for one in names)]).encode()
    bucket.objects |= {"a.tar": tar_of(bucket.objects), "a.parquet": parquet_of(bucket.objects)}
    score(clips, tmp_path / "disk")

    progress = score(f"s3://bucket/{name}", tmp_path / "bucket")

    assert dict(progress.statuses) == {"ok": 12}
    assert scores(tmp_path / "bucket") == pytest.approx(scores(tmp_path / "disk"), abs=1e-5)
    assert score(f"s3://bucket/{name}", tmp_path / "bucket").kept == 12


def test_a_folder_of_a_bucket_is_searched_in_depth_for_recordings_alone(bucket):
    bucket.objects |= {"folder/README.md": b"ours", "folder/deep/a b ü.flac": b"1", "folder/list.json": b"{}", "folder.wav": b"1"}

    keys = [item.key for item in open_source("s3://bucket/folder/").items()]

    assert keys == [*(f"s3://bucket/folder/{index:02d}.wav" for index in range(12)), "s3://bucket/folder/deep/a b ü.flac"]
    bucket.objects["folder/a.tar"] = b""
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ValueError, match="got 13 audio, 1 tar; name one kind with a glob"):
        open_source("s3://bucket/folder/")
    with pytest.raises(ValueError, match="written with / at its end"):
        open_source("s3://bucket/folder")


def test_a_bucket_that_answers_503_twice_is_asked_again(bucket, clips, score, tmp_path):
    bucket.busy |= {"folder/04.wav": 2}
    score(clips, tmp_path / "disk")

    progress = score("s3://bucket/folder/", tmp_path / "bucket")

    assert dict(progress.statuses) == {"ok": 12}
    assert scores(tmp_path / "bucket") == pytest.approx(scores(tmp_path / "disk"), abs=1e-5)


def test_a_bucket_that_always_answers_503_costs_a_row_which_is_retried_on_request(bucket, score, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")  # as it is for users: botocore would ask five times
    score("s3://bucket/folder/", tmp_path / "whole")
    bucket.busy |= {"folder/04.wav": -1, "folder/09.wav": -1}
    s3fs.S3FileSystem.clear_instance_cache()
    bucket.asked.clear()

    progress = score("s3://bucket/folder/", tmp_path / "out")

    assert bucket.asked["folder/04.wav"] == 4
    assert dict(progress.statuses) == {"ok": 10, "failed": 2}
    failed = [row for row in table(tmp_path / "out") if row["status"] == "failed"]
    assert [(row["row"], row["code"]) for row in failed] == [(4, "unreachable"), (9, "unreachable")]
    assert "the download failed" in failed[0]["reason"] and "try again later" in failed[0]["reason"]
    assert progress.complete

    bucket.busy.clear()
    assert score("s3://bucket/folder/", tmp_path / "out").rows == 0
    assert dict(score("s3://bucket/folder/", tmp_path / "out", retry_failed=True).statuses) == {"ok": 2}
    assert checksum(tmp_path / "out") == checksum(tmp_path / "whole")


@pytest.mark.parametrize(
    "key, code, reason", [("03.wav", "unreachable", "check the credentials"), ("99.wav", "missing", "no such")]
)
def test_an_object_that_may_not_be_read_or_is_not_there_is_asked_for_once(key, code, reason, bucket):
    bucket.forbidden.add("folder/03.wav")

    refusal = load(Item(0, key, key, f"s3://bucket/folder/{key}"), Decoding(16_000))

    assert (refusal.status, refusal.code) == ("failed", code)
    assert reason in refusal.reason
    assert bucket.asked[f"folder/{key}"] == 1


def test_an_archive_in_a_bucket_that_was_busy_is_read_by_the_next_run(bucket, score, tmp_path):
    bucket.objects["a.tar"] = tar_of(bucket.objects)
    score("s3://bucket/a.tar", tmp_path / "whole")
    bucket.busy["a.tar"] = -1
    s3fs.S3FileSystem.clear_instance_cache()

    assert dict(score("s3://bucket/a.tar", tmp_path / "out").statuses) == {"failed": 1}
    bucket.busy.clear()
    score("s3://bucket/a.tar", tmp_path / "out")

    assert checksum(tmp_path / "out") == checksum(tmp_path / "whole")


def test_an_archive_in_a_bucket_that_is_cut_short_gives_what_is_there(bucket, score, tmp_path):
    whole = tar_of(bucket.objects)
    bucket.objects["a.tar"] = whole[: len(whole) // 2]

    progress = score("s3://bucket/a.tar", tmp_path / "out")

    assert progress.statuses["failed"] == 1 and progress.statuses["ok"] >= 3
    assert table(tmp_path / "out")[-1]["code"] == "truncated"


@pytest.mark.parametrize("name", ["folder/", "folder/*.wav", "m.jsonl", "a.parquet"])
@pytest.mark.parametrize("fault", ["no credentials", "forbidden", "busy", "absent", "no server"])
def test_a_bucket_that_cannot_be_read_is_one_sentence_and_exit_code_2(fault, name, bucket, tiny_folder, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    expected = {"no credentials": "check the credentials", "forbidden": "check the credentials"}
    expected |= {"busy": "cannot be read", "no server": "cannot be read", "absent": "no file"}
    if fault == "no credentials":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    elif fault == "no server":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    elif fault == "absent":
        bucket.objects.clear()
    else:
        bucket.objects |= {"m.jsonl": b"{}", "a.parquet": b"1"}
        key = "" if name.startswith("folder") else name
        bucket.forbidden |= {key} if fault == "forbidden" else set()
        bucket.busy |= {key: -1} if fault == "busy" else {}

    command = ["score", f"s3://bucket/{name}", "--output", f"{tmp_path}/out/", "--model", str(tiny_folder), "--num-workers", "0"]
    result = CliRunner().invoke(app, [*command, "--device", "cpu"])

    said = " ".join(result.stderr.split())
    assert result.exit_code == 2, (result.output, result.exception)
    assert f"'s3://bucket/{name}'" in said and expected[fault] in said
    assert len(said) < 400
