"""Heads on frozen features, as teachers of coders: do they agree with listeners better than Distill-MOS v7?

    . coders/environment
    python benchmarks/teacher_heads.py ../shared --labels distilled_sqa-coders-labels --order ladders/order.csv --features features

Features are means and deviations over time of the layers of Whisper's base encoder (each recording at its own length, without the
silence up to 30 s), or what Distill-MOS v7 pools before its score. Heads are small networks that follow v7's scores of every tenth
shard of labelled windows; with ranks, also an order that listeners settled (`train_scripts/students_ladders.py`); with anchors,
also the published means of its conditions. `... and v7` is the mean with v7's own score. The sets of `benchmarks/listeners.py`
hear each head once. Features are kept in the folder, which takes most of the time; a second call computes missing ones only.

One head is a checkpoint of its own, since it is linear in the mean of one layer: `--save whisper-head` writes it as a
`Wav2Vec2ForMOS`, a teacher for `hf-sqa distill`, which computes the first three of Whisper's six layers only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import listeners
import numpy as np
import torch
from machine import print_machine
from safetensors import safe_open
from torch import nn

from hf_sqa.audio import load_recording
from hf_sqa.blocks.speech_encoder import WHISPER_FRAME_SAMPLES, load_encoder, load_encoder_config
from hf_sqa.data.windows import Shard
from hf_sqa.distillation.recipe import TeacherOptions
from hf_sqa.distillation.teacher import Teacher, load_teacher, pooled_features
from hf_sqa.models.wav2vec2_mos import Wav2Vec2ForMOS
from hf_sqa.runs import whole_file
from hf_sqa.training.order import order_loss

RATE, LAYERS = 16_000, (2, 4, 6)
#: The layer of the head that `--save` writes, and the frames of its encoder: windows of 7.68 s.
LAYER, NUM_FRAMES = 3, 384
COMPONENTS, HIDDEN, STEPS, BATCH, GROUPS, SEEDS = 64, 64, 400, 256, 16, (0, 1)
MARGIN, RANK_WEIGHT, ANCHOR_WEIGHT = 0.25, 0.3, 0.3
Arrays = dict[str, np.ndarray]


class Features:
    """Whisper's layers and v7's pooled features, score beside them, of recordings; kept in a folder."""

    def __init__(self, folder: Path, checkpoint: Path):
        self.folder, self.checkpoint = folder, checkpoint
        folder.mkdir(parents=True, exist_ok=True)
        self._whisper: Any = None
        self._teacher: Teacher | None = None

    @torch.inference_mode()
    def whisper(self, waveform: np.ndarray) -> np.ndarray:
        """`(7, 1024)`: mean and deviation of the input and of six layers, the last one behind its norm."""
        if self._whisper is None:
            self._whisper = load_encoder(str(self.checkpoint), load_encoder_config(str(self.checkpoint))).eval()
        model, encoder = self._whisper, self._whisper.encoder
        padded = torch.from_numpy(np.pad(waveform, (0, -len(waveform) % WHISPER_FRAME_SAMPLES)))[None]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            frames = nn.functional.gelu(encoder.conv1(model.log_mel(padded)))
            frames = nn.functional.gelu(encoder.conv2(frames)).transpose(1, 2)
            layers = [frames + encoder.embed_positions.weight[: frames.shape[1]]]
            for layer in encoder.layers:
                output = layer(layers[-1], None)
                layers.append(output[0] if isinstance(output, tuple) else output)
            layers[-1] = encoder.layer_norm(layers[-1])
        stacked = torch.cat(layers).float()
        return torch.cat([stacked.mean(1), stacked.std(1)], dim=1).half().numpy()

    @torch.inference_mode()
    def v7(self, waveform: np.ndarray) -> tuple[np.ndarray, float]:
        """Pooled features, averaged over windows, and score."""
        if self._teacher is None:
            self._teacher = load_teacher(TeacherOptions(checkpoint="default", dtype="bfloat16"))
        recording = load_recording({"array": waveform, "sampling_rate": RATE})
        with pooled_features(self._teacher.model) as pooled:
            result = self._teacher.model.score_recordings([recording], self._teacher.feature_extractor)[0]
        return np.concatenate(pooled).mean(axis=0).astype(np.float16), float(result.scores[0])

    def of(self, name: str, recordings: Callable[[], Iterable[tuple[Any, np.ndarray]]], with_v7: bool = True) -> Arrays:
        """Features of named waveforms, from the folder or computed now."""
        path = self.folder / f"{name.replace(' ', '_')}.npz"
        if not path.exists():
            rows: list[dict[str, Any]] = []
            for key, waveform in recordings():
                rows.append({"names": key, "whisper": self.whisper(waveform)})
                if with_v7:
                    rows[-1]["v7"], rows[-1]["scores"] = self.v7(waveform)
            with whole_file(path) as unfinished, unfinished.open("wb") as file:
                np.savez(file, **{field: np.array([row[field] for row in rows]) for field in rows[0]})
            sys.stderr.write(f"{path}\n")
        with np.load(path) as kept:
            return {field: kept[field].astype(np.float32) if kept[field].dtype.kind == "f" else kept[field] for field in kept.files}


def loaded(paths: Iterable[Path]) -> Iterable[tuple[str, np.ndarray]]:
    return ((path.name, load_recording(path, sampling_rate=RATE).waveform) for path in paths)


def windows(features: Features, folder: Path, every: int) -> tuple[Arrays, Arrays]:
    """Labelled windows for training, and of other talkers."""
    labels = next((folder / "labels").iterdir())
    found: dict[bool, list[Arrays]] = {True: [], False: []}
    for split in ("train", "validation", "test"):
        for path in sorted(labels.glob(f"{split}-*.safetensors"))[::every]:
            shard = Shard.read(folder / "windows" / path.name)
            usable = [
                place for place, row in enumerate(shard.rows) if row["status"] == "ok" and shard.num_samples[place] >= RATE / 2
            ]
            kept = features.of(
                path.stem, lambda usable=usable, shard=shard: ((k, shard.waveform(k)) for k in usable), with_v7=False
            )
            places = kept["names"]
            with safe_open(path, "np") as file:
                scores, pooled = file.get_tensor("scores")[places, 0], file.get_tensor("features")[places].astype(np.float32)
            kinds = np.array([any(step["kind"] == "lyra" for step in shard.rows[k].get("degradations") or []) for k in places])
            scored = np.isfinite(scores)
            part = {"whisper": kept["whisper"], "v7": pooled, "scores": scores, "lyra": kinds}
            found[split == "train"].append({field: values[scored] for field, values in part.items()})
    return tuple(
        {field: np.concatenate([part[field] for part in found[kind]]) for field in found[kind][0]} for kind in (True, False)
    )  # type: ignore[return-value]


def ladders(features: Features, table: Path, number: int) -> Arrays:
    """The first sentences of each ladder, with `group`, `rank`, `mos` and `talker`."""
    rows = [row for row in listeners.read(table) if int(row["group"].split()[1]) < number]
    kept = features.of("order", lambda: loaded(table.parent / row["filepath"] for row in rows))
    by_name = {row["filepath"]: row for row in rows}
    rows = [by_name[name] for name in kept["names"]]
    groups = np.unique([row["group"] for row in rows], return_inverse=True)[1]
    return kept | {
        "group": groups,
        "rank": np.array([float(row["rank"]) for row in rows], np.float32),
        "mos": np.array([float(row["mos"] or "nan") for row in rows], np.float32),
        "talker": np.array([row["talker"] for row in rows]),
        "lyra": np.array([row["group"].startswith("lyra") for row in rows]),
    }


def where(arrays: Arrays, chosen: np.ndarray) -> Arrays:
    return {field: values[chosen] for field, values in arrays.items()}


@dataclass
class Head:
    """What a head hears and what it is fitted to."""

    name: str
    features: tuple[str, ...]
    ranks: float = 0.0
    anchors: float = 0.0
    mixed: bool = False  # the mean with v7's own score

    @property
    def is_linear(self) -> bool:
        return "layer" in self.features

    def whisper(self, arrays: Arrays) -> np.ndarray:
        if self.is_linear:
            return arrays["whisper"][:, LAYER, : arrays["whisper"].shape[2] // 2]  # means over time, without deviations
        return arrays["whisper"][:, LAYERS].reshape(len(arrays["whisper"]), -1)

    def inputs(self, arrays: Arrays) -> torch.Tensor:
        parts = []
        if "v7" not in self.features:
            normalised = (self.whisper(arrays) - self.mean) / self.deviation
            parts.append(normalised if self.is_linear else normalised @ self.projection)
        if "v7" in self.features:
            parts.append((arrays["v7"] - self.v7_mean) / self.v7_deviation)
        return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))

    def fit(self, train: Arrays, order: Arrays) -> Head:
        flat = self.whisper(train)
        self.mean, self.deviation = flat.mean(axis=0), flat.std(axis=0) + 1e-3
        _, values, vectors = np.linalg.svd((flat - self.mean) / self.deviation, full_matrices=False)
        variances = values**2 / len(flat)
        self.projection = vectors[:COMPONENTS].T / np.sqrt(variances[:COMPONENTS] + 4e-4 * variances[0])
        self.v7_mean, self.v7_deviation = train["v7"].mean(axis=0), train["v7"].std(axis=0) + 1e-3
        inputs, versions = self.inputs(train), self.inputs(order)
        scores, group, rank, mos = (
            torch.from_numpy(np.asarray(values, np.float32))
            for values in (train["scores"], order["group"], order["rank"], order["mos"])
        )
        self.networks = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            network = nn.Sequential(nn.Linear(inputs.shape[1], HIDDEN), nn.Dropout(0.1), nn.GELU(), nn.Linear(HIDDEN, 1))
            if self.is_linear:
                network = nn.Sequential(nn.Linear(inputs.shape[1], 1))
                nn.init.zeros_(network[0].weight)
            nn.init.constant_(network[-1].bias, float(scores.mean()))
            optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
            for _ in range(STEPS):
                batch = torch.randint(len(inputs), (BATCH,))
                loss = (network(inputs[batch])[:, 0] - scores[batch]).abs().mean()
                if self.ranks or self.anchors:
                    chosen = torch.isin(group, group.unique()[torch.randperm(len(group.unique()))[:GROUPS]])
                    found, known = network(versions[chosen])[:, 0], ~mos[chosen].isnan()
                    loss = loss + self.ranks * order_loss(found, group[chosen], rank[chosen], mos[chosen], MARGIN)
                    loss = loss + self.anchors * (found - mos[chosen])[known].abs().sum() / max(1, int(known.sum()))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            self.networks.append(network.eval())
        own = self.scores(train, alone=True)
        self.slope = train["scores"].std() / own.std()
        self.shift = train["scores"].mean() - self.slope * own.mean()
        return self

    @torch.inference_mode()
    def scores(self, arrays: Arrays, alone: bool = False) -> np.ndarray:
        inputs = self.inputs(arrays)
        own = torch.stack([network(inputs)[:, 0] for network in self.networks]).mean(dim=0).numpy()
        return own if alone or not self.mixed else (self.slope * own + self.shift + arrays["scores"]) / 2

    @torch.no_grad()
    def save(self, checkpoint: Path, folder: Path) -> None:
        """Write a linear head, on the layers of the encoder that it needs, as a checkpoint."""
        model = Wav2Vec2ForMOS.from_encoder(
            str(checkpoint), encoder_options={"max_source_positions": NUM_FRAMES}, layer=LAYER, freeze_encoder=True
        )
        linear = [network[0] for network in self.networks]
        weight = torch.stack([layer.weight for layer in linear]).mean(dim=0) / torch.from_numpy(self.deviation)
        bias = torch.stack([layer.bias for layer in linear]).mean(dim=0)
        model.score_head.weight.copy_(weight)
        model.score_head.bias.copy_(bias - weight @ torch.from_numpy(self.mean))
        model.save_pretrained(folder)
        model.make_feature_extractor().save_pretrained(folder)


HEADS = [
    Head("v7's features", ("v7",)),
    Head("v7's features, ranks", ("v7",), RANK_WEIGHT),
    Head("v7's features, ranks, anchors", ("v7",), RANK_WEIGHT, ANCHOR_WEIGHT),
    Head("Whisper", ("whisper",)),
    Head("Whisper, ranks", ("whisper",), RANK_WEIGHT),
    Head("Whisper, ranks, anchors", ("whisper",), RANK_WEIGHT, ANCHOR_WEIGHT),
    Head("Whisper, ranks, anchors, and v7", ("whisper",), RANK_WEIGHT, ANCHOR_WEIGHT, mixed=True),
    Head("Whisper's third layer, linear, ranks", ("layer",), RANK_WEIGHT),
    Head("Whisper's third layer, linear, ranks, and v7", ("layer",), RANK_WEIGHT, mixed=True),
]


def kept_order(scores: np.ndarray, order: Arrays) -> float:
    """Share of the pairs of a group that the scores order as listeners did."""
    pairs = (order["group"][:, None] == order["group"]) & (order["rank"][:, None] > order["rank"])
    return float((scores[:, None] > scores)[pairs].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    for name in ("--labels", "--order", "--features"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--every", type=int, default=10, help="shards of which one is used")
    parser.add_argument("--sentences", type=int, default=20, help="of each ladder")
    parser.add_argument("--save", type=Path, help="folder for the linear head")
    parser.add_argument("--draws", type=int, default=listeners.NUM_DRAWS, help="for the intervals")
    options = parser.parse_args()
    print_machine()
    listeners.NUM_DRAWS = options.draws
    features = Features(options.features, options.shared / "checkpoints/whisper_base_encoder")
    train, others = windows(features, options.labels, options.every)
    order = ladders(features, options.order, options.sentences)
    talkers = sorted(set(order["talker"]))
    aside = np.isin(order["talker"], talkers[::4])
    with tempfile.TemporaryDirectory() as folder:
        found = listeners.sets(options.shared, Path(folder))
        sets = {
            name: features.of(name, lambda rows=rows: loaded(Path(row["file"]) for row in rows)) for name, rows in found.items()
        }

    def heard(score: Callable[[Arrays], np.ndarray]) -> dict[str, str]:
        for name, rows in found.items():
            for row, value in zip(rows, score(sets[name]), strict=True):
                row["score"] = float(value)
        return listeners.figures(found)

    table = {"Distill-MOS v7": heard(lambda arrays: arrays["scores"])}
    table["Distill-MOS v7"] |= {
        "LCC with v7, windows of other talkers": "",
        "orders kept, other talkers": f"{kept_order(order['scores'][aside], where(order, aside)):.3f}",
        "Lyra's order kept, without Lyra": f"{kept_order(order['scores'][order['lyra']], where(order, order['lyra'])):.3f}",
    }
    for head in HEADS:
        row = heard(head.fit(train, order).scores)
        if head.is_linear and not head.mixed and options.save:
            head.save(features.checkpoint, options.save)
        row["LCC with v7, windows of other talkers"] = f"{np.corrcoef(head.scores(others), others['scores'])[0, 1]:.3f}"
        head.fit(train, where(order, ~aside))
        row["orders kept, other talkers"] = f"{kept_order(head.scores(where(order, aside)), where(order, aside)):.3f}"
        head.fit(where(train, ~train["lyra"]), where(order, ~order["lyra"]))
        row["Lyra's order kept, without Lyra"] = (
            f"{kept_order(head.scores(where(order, order['lyra'])), where(order, order['lyra'])):.3f}"
        )
        table[head.name] = row
    lines = ["| measured on | " + " | ".join(table) + " |", "|---" * (len(table) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(row[name] for row in table.values()) + " |" for name in next(iter(table.values()))]
    sys.stdout.write(f"{len(train['scores'])} windows, {len(order['scores'])} versions\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
