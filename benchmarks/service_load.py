"""Load on `hf-sqa serve` on loopback: many requests at once, some of them poisoned; none may be lost, and memory must stay flat.

python benchmarks/service_load.py <recording> [--model distilled-sqa-s] [--requests 2000] [--at-once 64] [--workers 1]

Starts the service as a user would, then sends the recording, cut to different lengths, every request on its own connection. One of
ten is poisoned: no audio, silence, a file cut short, an empty one, one too large, or a client that goes away while it sends.
Answers are compared with what is due; a score with the one that the recording had alone. Memory is the proportional set size of the
service with all its processes (Linux).
"""

import argparse
import asyncio
import io
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import soundfile
from machine import print_machine

from hf_sqa.audio import load_recording

LENGTHS_SECONDS = (3.0, 4.0, 5.0, 7.0)
MAX_MEGABYTES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--model", default="distilled-sqa-s")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--decoders", type=int, default=1)
    arguments = parser.parse_args()
    print_machine()
    clips, poisons = made(arguments.recording)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {name: getattr(arguments, name) for name in ("model", "workers", "decoders")} | {"port": port}
    command = [sys.executable, "-m", "hf_sqa", "serve", "--max-megabytes", str(MAX_MEGABYTES), "--timeout", "600"]
    process = subprocess.Popen([*command, *(text for name, value in options.items() for text in (f"--{name}", str(value)))])
    try:
        asyncio.run(load(process, f"http://127.0.0.1:{port}", clips, poisons, arguments))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def made(path: Path) -> tuple[list[bytes], list[tuple[bytes | None, int, str]]]:
    """Clips, and poisons with the status and code that are due; `None` stands for a client that goes away."""
    recording = load_recording(path)
    rate, speech = recording.sampling_rate, np.resize(recording.waveform, int(max(LENGTHS_SECONDS) * recording.sampling_rate))
    clips = [encoded(speech[: int(seconds * rate)], rate) for seconds in LENGTHS_SECONDS]
    poisons = [
        (b"this is no audio" * 100, 415, "undecodable"),
        (encoded(np.zeros(rate, np.float32), rate), 422, "silent"),
        (clips[0][: len(clips[0]) // 2], 422, "truncated"),
        (b"", 422, "empty"),
        (bytes(MAX_MEGABYTES * 1_000_000 + 1), 413, "too_large"),
        (None, 0, "went away"),
    ]
    return clips, poisons


def encoded(waveform: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format="WAV")
    return file.getvalue()


async def load(process: subprocess.Popen, address: str, clips: list, poisons: list, arguments: argparse.Namespace) -> None:
    limits = httpx.Limits(max_connections=arguments.at_once, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=address, timeout=900, limits=limits) as client:
        while process.poll() is None:
            try:
                await client.get("/health")
                break
            except httpx.TransportError:
                await asyncio.sleep(0.2)
        alone = [(await client.post("/score", files={"file": ("a.wav", clip)})).json()["mos"] for clip in clips]
        seconds, found, memory = [], Counter(), []
        waiting = iter(range(arguments.requests))

        async def send_one(index: int) -> None:
            started = time.perf_counter()
            if index % 10 == 9:
                content, status, code = poisons[index // 10 % len(poisons)]
                if content is None:
                    await go_away(address)
                    found["poisoned, went away"] += 1
                    return
                try:
                    answer = await client.post("/score", files={"file": ("a.wav", content)})
                except (httpx.WriteError, httpx.ReadError):  # refused by its stated size, the connection closed
                    assert code == "too_large"
                    found["poisoned, connection closed"] += 1
                    return
                is_due = (answer.status_code, answer.json()["code"]) == (status, code)
                found[f"poisoned, {code}" if is_due else f"not due: {answer.status_code} {answer.text[:200]}"] += 1
                return
            answer = await client.post("/score", files={"file": ("a.wav", clips[index % len(clips)])})
            row = answer.json()
            is_due = answer.status_code == 200 and abs(row["mos"] - alone[index % len(clips)]) < 1e-4
            found["scored" if is_due else f"not due: {answer.status_code} {answer.text[:200]}"] += 1
            seconds.append(time.perf_counter() - started)

        async def client_of_many() -> None:
            for index in waiting:
                try:
                    await send_one(index)
                except Exception as error:  # an answer that never came
                    found[f"lost: {type(error).__name__}"] += 1
                if index % max(1, arguments.requests // 10) == 0:
                    memory.append(memory_of(process.pid))

        began = time.perf_counter()
        await asyncio.gather(*(client_of_many() for _ in range(arguments.at_once)))
        elapsed = time.perf_counter() - began
        memory.append(memory_of(process.pid))
        metrics = (await client.get("/metrics")).text
        rate = arguments.requests / elapsed
        print(f"{arguments.requests} requests, {arguments.at_once} at once, in {elapsed:.0f} s: {rate:.1f} a second")
        for what, count in sorted(found.items()):
            print(f"  {count:>5}  {what}")
        low, middle, high = np.percentile(seconds, (5, 50, 95))
        print(f"seconds to an answer: median {middle:.2f}, 5 % to 95 % {low:.2f} to {high:.2f}")
        print("memory, MB, every tenth of the requests: " + " ".join(f"{value:.0f}" for value in memory))
        batches = {
            line.split()[0].rpartition("_")[2]: float(line.split()[1])
            for line in metrics.splitlines()
            if "batch_recordings_" in line and line[0] != "#" and "bucket" not in line
        }
        print(f"recordings in a batch, mean: {batches['sum'] / batches['count']:.1f}")


async def go_away(address: str) -> None:
    """Begin an upload and close the connection in the middle of it."""
    _, _, place = address.rpartition("/")
    host, port = place.split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 100000\r\n\r\n--x\r\n"
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def memory_of(process: int) -> float:
    """Megabytes of a process and all below it."""
    total, processes = 0.0, [process]
    while processes:
        current = processes.pop()
        try:
            text = Path(f"/proc/{current}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1e3
            for task in Path(f"/proc/{current}/task").iterdir():
                processes.extend(map(int, (task / "children").read_text().split()))
        except (OSError, StopIteration):  # it has ended meanwhile
            continue
    return total


if __name__ == "__main__":
    main()
