"""`hf-sqa degrade`: degrades speech in known ways, file by file, and writes a manifest of what was done."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.arguments import AllCores, Overwrite, num_cores
from hf_sqa.cli.stopping import EXIT_FAILED, faults_end_it, until_interrupted

MANIFEST = "manifest.jsonl"
NOISES = {
    "white": "white_noise",
    "pink": "pink_noise",
    "hum": "hum",
    "babble": "babble",
    "fluctuating": "fluctuating_noise",
    "background": "background_noise",
    "recorded": "recorded_noise",
}
#: Codecs whose decoder conceals lost frames; after other codecs the step `packet_loss` does.
CONCEALING_CODECS = ("opus", "amr_nb", "amr_wb", "speex")
#: Fewest files per process by default: fewer would be done before another process has started.
FILES_PER_WORKER = 16


@faults_end_it("Interrupted: what is done is kept; the same command goes on from there.", RuntimeError)
def degrade(
    source: Annotated[str, typer.Argument(help="A recording, or a folder searched in depth.")],
    target: Annotated[Path, typer.Argument(help="The file to write (`.wav`, `.flac`), or the folder to write to, for a folder.")],
    preset: Annotated[
        str | None, typer.Option(help="`tencent`, `p835`, `conference`, `distillation`, or a chain of your own ending in `.yaml`.")
    ] = None,
    condition: Annotated[str | None, typer.Option(help="One named branch of the preset, such as `c7` of `p835`.")] = None,
    t60_seconds: Annotated[float | None, typer.Option(help="Reverberation: time to decay by 60 dB.")] = None,
    snr_db: Annotated[float | None, typer.Option(help="Noise: speech over noise power in dB.")] = None,
    noise: Annotated[str, typer.Option(help=f"Noise of `--snr-db`: {', '.join(NOISES)}.")] = "white",
    active_level: Annotated[
        bool, typer.Option("--active-level", help="The speech of `--snr-db` is measured while active (P.56), not over the file.")
    ] = False,
    mnru_q_db: Annotated[float | None, typer.Option(help="Modulated noise (P.810): Q in dB.")] = None,
    low_pass_hz: Annotated[float | None, typer.Option(help="Cut-off frequency above which nothing remains.")] = None,
    clip_share: Annotated[float | None, typer.Option(help="Share of the samples to clip, 0 to 1.")] = None,
    codec: Annotated[
        str | None, typer.Option(help="opus, amr_nb, amr_wb, gsm, g711, g726, speex, mp3, aac, vorbis, adpcm.")
    ] = None,
    bitrate: Annotated[float | None, typer.Option(help="Bit rate of the codec in kb/s.")] = None,
    loss_share: Annotated[
        float | None, typer.Option(help="Share of 20 ms packets lost, 0 to 1, concealed by the codec where it can, else as G.711.")
    ] = None,
    step: Annotated[
        list[str] | None,
        typer.Option(
            help="Any other kind, after the options above; may be repeated: `echo delay_ms=150 attenuation_db=6..20`. "
            "`low..high` draws a number, `a|b` one of several, `probability=0.5` leaves it out at times."
        ),
    ] = None,
    noise_folder: Annotated[
        Path | None, typer.Option(help="Recordings of noise, for `--noise recorded` or `background` and the presets.")
    ] = None,
    talker_folder: Annotated[Path | None, typer.Option(help="Recordings of other talkers, for babble.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the run; the draw of a file depends on it and on the file's name.")] = 0,
    sampling_rate: Annotated[int | None, typer.Option(help="Rate of the outputs in Hz; by default that of each input.")] = None,
    num_workers: AllCores = None,
    manifest: Annotated[
        Path | None, typer.Option(help=f"JSON lines with what was drawn; `{MANIFEST}` in the target folder by default.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Degrade speech: noise, rooms, codecs, losses and more, each recorded and repeatable.

    Options are applied in the order of this list. Outputs are mono, 16 bits, as long as their inputs and aligned with them. For a
    folder, a manifest is written, and the same command resumes a stopped run. A recording that cannot be degraded is a row with
    the reason, and the exit code is 1. Exit code 2: nothing could be done. Ctrl-C keeps finished files.

    Examples:

    - `hf-sqa degrade in.wav out.wav --snr-db 10 --codec opus --bitrate 12`
    - `hf-sqa degrade clean/ degraded/ --preset tencent --seed 1 --noise-folder noises/`
    - `hf-sqa degrade in.wav out.wav --step "chop chops_per_second=3 chop_ms=20..40"`
    """
    from hf_sqa.cli.files import find_recordings
    from hf_sqa.degradations import Run, degrade_files

    if active_level and snr_db is None:
        raise ValueError("Expected --snr-db with --active-level; a preset says itself how its speech is measured.")
    if noise not in NOISES:
        raise ValueError(f"Expected --noise to be one of {', '.join(NOISES)}, got {noise!r}.")
    asked = [
        {"kind": "reverberation", "t60_seconds": t60_seconds},
        {"kind": NOISES[noise], "snr_db": snr_db, "speech_level": "active" if active_level else "whole_file"},
        {"kind": "mnru", "q_db": mnru_q_db},
        {"kind": "low_pass", "cutoff_hz": low_pass_hz},
        {"kind": "clip_share", "share": clip_share},
    ]
    steps = [step for step in asked if None not in step.values()]
    steps += _codec_steps(codec, bitrate, loss_share)
    steps += [_parsed_step(text) for text in step or []]
    chain = _chain(preset, condition, steps, {"noises": noise_folder, "talkers": talker_folder})
    jobs, manifest = _jobs(source, target, list(find_recordings([source])), manifest)
    workers = num_workers or min(num_cores(), max(1, len(jobs) // FILES_PER_WORKER))
    degraded = degrade_files(jobs, Run(chain, seed, sampling_rate), manifest=manifest, num_workers=workers, overwrite=overwrite)
    rows = until_interrupted(degraded, len(jobs), "recordings")
    failed = [row for row in rows if row["status"] != "ok"]
    for row in failed:
        typer.echo(f"{row['input']}: {row['reason']} [{row['code']}]", err=True)
    if len(jobs) == 1 and not failed and rows:
        typer.echo(f"{jobs[0].target}: {_described(rows[0])}")
    elif len(jobs) > 1:
        typer.echo(f"{len(rows) - len(failed)} of {len(jobs)} recordings degraded into {target}; the manifest is {manifest}.")
    if len(rows) < len(jobs):
        raise KeyboardInterrupt
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _chain(preset: str | None, condition: str | None, steps: list[dict[str, Any]], folders: dict[str, Path | None]) -> Any:
    from hf_sqa.degradations import Chain, RecordingFolder

    if (preset is None) == (not steps):
        raise ValueError("Expected either --preset or what to do, such as --snr-db 10 or --codec gsm, got both or neither.")
    if condition is not None and preset is None:
        raise ValueError("Expected --preset with --condition, which names one of its branches.")
    sources: dict[str, Any] = {name: RecordingFolder(folder) for name, folder in folders.items() if folder is not None}
    chain = Chain.load(preset, **sources) if preset is not None else Chain(steps, name="command line", **sources)
    return chain if condition is None else chain.select(condition)


def _codec_steps(codec: str | None, bitrate: float | None, loss_share: float | None) -> list[dict[str, Any]]:
    import inspect

    from hf_sqa.choices import did_you_mean
    from hf_sqa.degradations import KINDS

    if codec is None:
        if bitrate is not None:
            raise ValueError("Expected --codec with --bitrate.")
        return [] if loss_share is None else [{"kind": "packet_loss", "loss_share": loss_share}]
    codecs = [name for name, kind in KINDS.items() if kind.__module__.startswith("hf_sqa.degradations.codec.")]
    if codec not in codecs:
        raise ValueError(f"Expected --codec to be one of {', '.join(codecs)}, got {codec!r}{did_you_mean(codec, codecs)}")
    step: dict[str, Any] = {"kind": codec}
    parameter = inspect.signature(KINDS[codec]).parameters.get("bitrate_kbps")
    if bitrate is not None:
        if parameter is None:
            raise ValueError(f"The codec {codec!r} has no --bitrate to choose; leave it out.")
        step["bitrate_kbps"] = int(bitrate) if bitrate == int(bitrate) else bitrate
    elif parameter is not None and parameter.default is parameter.empty:
        raise ValueError(f"Expected --bitrate, in kb/s, with --codec {codec}.")
    if codec == "vorbis":
        step["quality"] = 0.3
    if loss_share is None:
        return [step]
    if codec in CONCEALING_CODECS:
        return [step | {"loss_share": loss_share}]
    return [step, {"kind": "packet_loss", "loss_share": loss_share}]


def _parsed_step(text: str) -> dict[str, Any]:
    """Parse a text such as `"echo delay_ms=150 attenuation_db=6..20"` as a step of a chain."""
    from hf_sqa.options import parse_yaml

    kind, *assignments = text.split() or [""]
    step: dict[str, Any] = {"kind": kind}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not value:
            raise ValueError(f"Expected --step to be a kind and name=value pairs, got {assignment!r} in {text!r}.")
        low, dots, high = value.partition("..")
        if dots:
            step[name] = {"uniform": [parse_yaml(low), parse_yaml(high)]}
        elif "|" in value:
            step[name] = {"one_of": [parse_yaml(choice) for choice in value.split("|")]}
        else:
            step[name] = parse_yaml(value)
    return step


def _jobs(source: str, target: Path, found: Sequence[tuple[str, Any]], manifest: Path | None) -> tuple[list[Any], Path | None]:
    """Return the files to read and write, and the path of the manifest."""
    from hf_sqa.audio import AudioError
    from hf_sqa.degradations.folders import WRITTEN_SUFFIXES, Job

    if len(found) == 1 and isinstance(found[0][1], AudioError):
        raise found[0][1]
    if not Path(source).is_dir():
        if len(found) != 1 or not isinstance(found[0][1], str):
            raise ValueError(f"Expected a recording or a folder as the source, got {source!r}.")
        if target.is_dir():
            target = target / _written_name(Path(source).name)
        if target.suffix.lower() not in WRITTEN_SUFFIXES:
            raise ValueError(f"Expected the target to end in {' or '.join(WRITTEN_SUFFIXES)}, got {str(target)!r}.")
        if target.exists() and Path(source).exists() and target.samefile(source):
            raise ValueError(f"Expected another file than the source as the target, got {str(target)!r} for both.")
        return [Job(Path(source).name, source, str(target), target.name)], manifest
    folder = Path(source)
    if target.exists() and not target.is_dir():
        raise ValueError(f"Expected a folder as the target of a folder, got the file {str(target)!r}.")
    if target.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"Expected a target outside the source, got {str(target)!r}: the next run would degrade what this one wrote."
        )
    names = [Path(name).relative_to(folder).as_posix() for name, _ in found]
    written = [_written_name(name) for name in names]
    jobs = [Job(name, str(folder / name), str(target / output), output) for name, output in zip(names, written, strict=True)]
    return jobs, manifest or target / MANIFEST


def _written_name(name: str) -> str:
    from hf_sqa.degradations.folders import WRITTEN_SUFFIXES

    return name if Path(name).suffix.lower() in WRITTEN_SUFFIXES else f"{name}.wav"


def _described(row: dict[str, Any]) -> str:
    """Describe in one line what was done to a file."""
    steps = row["degradations"]["steps"]
    actions = [" ".join([step["kind"], *(f"{name}={value}" for name, value in step["parameters"].items())]) for step in steps]
    clipped = sum(step["notes"].get("clipped_samples", 0) for step in steps)
    remarks = [f"{clipped} samples clipped by a 16-bit codec"] if clipped else []
    remarks += [f"turned down by {-row['gain_db']:.1f} dB to fit full scale"] if row["gain_db"] else []
    return ", then ".join(actions or ["nothing was drawn"]) + (f" ({'; '.join(remarks)})" if remarks else "")
