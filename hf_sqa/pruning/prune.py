"""Pruning: remove what a model's scores need least, repair the rest, and repeat, for a smaller dense model.

Paper:    Stahl & Gamper, "Distillation and Pruning for Scalable Self-Supervised Representation-Based Speech Quality Assessment",
          ICASSP 2025, arXiv:2502.05356
Differs:  the paper's pruning score and schedule are not known; those here are ours.

A unit is a convolution channel, a hidden unit of a feed-forward layer or of the pooling, an attention head, or a whole layer. Its
importance is measured on calibration speech, in score points:

    gradient    root mean square over windows of the sum of gradient times activation: the first-order change without the unit
    energy      root of (mean square activation times squared norm of the following weights), scaled to the sum by gradient
    drop-one    always used for layers: root mean square change of the score without the layer

Units are removed in the order of importance per weight, and their mean activation is added to the following bias. Repair is
distillation from the unpruned model on the calibration windows: its scores and, if it ends in an [`SQATransformer`], whose width
pruning keeps, its frames there. Agreement is that with the unpruned model on held-out windows.
"""

import copy
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from hf_sqa.blocks.precision import warn_if_emulated
from hf_sqa.blocks.sqa_transformer import watched_frames
from hf_sqa.metrics import agreement
from hf_sqa.modeling import weights_digest
from hf_sqa.pruning.calibration import Calibration, batches_of, stacked
from hf_sqa.pruning.importance import PruningOptions, choose, measure
from hf_sqa.runs import describe_differences, differences, locked, write_whole

REPORT, LOCK = "pruning.json", ".lock"
#: Share of the steps with a rising learning rate. A pruned model is near a minimum; full-size first steps of Adam would leave it.
WARMUP_SHARE = 0.1
#: Least deviation of a frame's feature, so that a constant one does not outweigh the others.
LEAST_DEVIATION = 1e-3


@dataclass
class PruningStep:
    """The outcome of one step."""

    num_parameters: int  # weights after the step
    share: float  # their share of the unpruned model's weights
    removed: dict[str, int]  # units removed, by kind
    sizes: dict[str, int]  # units left in every group
    before_repair: dict[str, float]  # `lcc` and `rmse` with the unpruned model on the held-out windows
    after_repair: dict[str, float]
    seconds: float  # duration of the step


@dataclass
class PruningResult:
    """A pruned model, the steps to it, and why pruning stopped before its target, if it did."""

    model: Any
    steps: list[PruningStep] = field(default_factory=list)
    stopped: str | None = None

    def report(self) -> dict[str, Any]:
        """Return everything except the model, ready for JSON."""
        return {"stopped": self.stopped, "steps": [asdict(step) for step in self.steps]}


def prune(
    model: Any,
    calibration: Calibration,
    options: PruningOptions,
    *,
    folder: str | Path | None = None,
    device: str | torch.device = "cpu",
    on_step: Callable[[int, PruningStep], None] | None = None,
) -> PruningResult:
    """Prune a DistilledSQA, or the transformer encoder inside another model (XLSRSQA, Wav2Vec2ForMOS, MOSANet).

    An encoder loses layers, heads and hidden units. Every layer loses equally many units, because its configuration has one width.

    Args:
        model: The model; it is not changed.
        calibration ([`Calibration`]): The calibration speech.
        options ([`PruningOptions`]): How far to prune, and how.
        folder (`str` or `Path`, *optional*): Folder to keep every step in; an interrupted pruning continues after the last step.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Device for scores, gradients and repair.
        on_step (callable, *optional*): Called with the number of a step and the [`PruningStep`].

    Returns:
        [`PruningResult`]: Holds a new model, in evaluation mode, on the CPU.

    Raises:
        ValueError: If the model cannot be pruned, or not that far (the message says how far); if `label_weight` is set and the
            calibration speech has no labels; or if the folder holds another pruning.
        FileExistsError: If the folder holds something else.
        Locked: If another process prunes into it.
    """
    if folder is None:
        return _prune(model, calibration, options, None, device, on_step)
    folder = Path(folder)
    _refuse_used(folder)
    with locked(folder / LOCK):
        return _prune(model, calibration, options, folder, device, on_step)


def _prune(
    model: Any,
    calibration: Calibration,
    options: PruningOptions,
    folder: Path | None,
    device: str | torch.device,
    on_step: Callable[[int, PruningStep], None] | None,
) -> PruningResult:
    labels = None if calibration.labels is None else torch.from_numpy(calibration.labels)
    if options.label_weight and (labels is None or bool(labels.isnan().all())):
        raise ValueError("Expected rated calibration speech with `label_weight`, got none: give a table or corpus with scores.")
    if options.bf16:
        warn_if_emulated(torch.bfloat16, device)
    model.pruning_layout()  # refuses a model before anything is copied
    unpruned = copy.deepcopy(model).float().eval().to(device)
    total = unpruned.num_parameters()
    aims = aims_of(unpruned, calibration.repair)
    reference = scores_of(unpruned, calibration.held_out)
    unpruned.cpu()
    definition = {"options": asdict(options), "unpruned": total, "weights": weights_digest(unpruned), "speech": calibration.digest}
    result = _resumed(folder, definition, unpruned)
    stride = max(1, len(calibration.repair) // options.num_measured)
    to_measure = calibration.repair[::stride][: options.num_measured]
    for number in range(len(result.steps), options.num_steps):
        began = time.monotonic()
        goal = math.floor(total * options.target ** ((number + 1) / options.num_steps))
        layout = result.model.to(device).pruning_layout()
        measured = measure(layout, to_measure, options)
        result.model.cpu()  # units are removed on the CPU
        keep = choose(layout, measured, goal, options)
        pruned = layout.pruned(keep, measured.means).to(device)
        before = agreement_with(pruned, calibration.held_out, reference)
        repair(pruned, calibration.repair, aims, options, number, labels)
        after = agreement_with(pruned, calibration.held_out, reference)
        pruned.cpu()
        removed: Counter[str] = Counter()
        for name, group in layout.groups.items():
            removed[group.kind] += group.size - len(keep[name])
        step = PruningStep(
            num_parameters=pruned.num_parameters(),
            share=pruned.num_parameters() / total,
            removed={kind: count for kind, count in removed.items() if count},
            sizes={name: len(kept) for name, kept in keep.items()},
            before_repair=before,
            after_repair=after,
            seconds=time.monotonic() - began,
        )
        if options.min_agreement is not None and not after["lcc"] >= options.min_agreement:
            result.stopped = (
                f"With {step.share:.1%} of the weights the agreement after repair is {after['lcc']:.4f}, below "
                f"{options.min_agreement}; this is the model of the step before."
            )
            break
        result.steps.append(step)
        result.model = pruned
        if folder is not None:
            save_model(pruned, _step_folder(folder, result))
            steps = {"steps": [asdict(step) for step in result.steps]}
            write_whole(folder / REPORT, json.dumps(definition | steps, indent=1), sole_writer=True)
        if on_step is not None:
            on_step(number, step)
    return result


def _resumed(folder: Path | None, definition: dict[str, Any], unpruned: Any) -> PruningResult:
    """Read the steps in a folder: `step-01/` is a loadable model; `pruning.json` has options, unpruned size and steps."""
    result = PruningResult(copy.deepcopy(unpruned))
    if folder is None or not (folder / REPORT).exists():
        return result
    try:
        content = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        result.steps = [PruningStep(**step) for step in content["steps"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{str(folder / REPORT)!r} is damaged ({error}); delete the folder, or choose another one.") from None
    if found := differences({name: content.get(name) for name in definition}, definition):
        raise ValueError(
            f"Expected {str(folder)!r} to be empty or to hold this pruning, got one with other options or of another model "
            f"({describe_differences(found)}); choose another folder, or delete this one."
        )
    if result.steps:
        model = type(unpruned).from_pretrained(_step_folder(folder, result)).float().eval()
        # Copy: tensors mapped from a file have another memory alignment, which can select other kernels and change the last bits.
        result.model = copy.deepcopy(model)
    return result


def _refuse_used(folder: Path) -> None:
    """Refuse a folder that holds anything but a pruning; its last step ends with the model in the folder itself."""
    if not folder.is_dir() or (folder / REPORT).exists():
        return
    if others := [path.name for path in folder.iterdir() if not path.name.startswith((".", "step-"))]:
        raise FileExistsError(
            f"Expected an empty or new folder, or one that this pruning has begun, got {str(folder)!r}, which holds {others[0]!r}; "
            "choose another one."
        )


def _step_folder(folder: Path, result: PruningResult) -> Path:
    return folder / f"step-{len(result.steps):02}"


@dataclass
class Aims:
    """Outputs of the unpruned model for windows."""

    scores: torch.Tensor  # `(W, L)`: its scores
    # `(W, F, 2 D)`: input and output of its transformer side by side, in float16, if it has one and every window has equally many
    # frames
    frames: torch.Tensor | None = None
    deviation: torch.Tensor | None = None  # `(2 D,)`: deviation of each channel of `frames`

    def frame_distance(self, frames: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Return the mean square difference in units of `deviation`; 0 if the frames have another shape."""
        assert self.frames is not None and self.deviation is not None
        theirs = self.frames[chosen].to(frames.device).float()
        if frames.shape != theirs.shape:
            return frames.new_zeros(())
        return ((frames - theirs) / self.deviation.to(frames.device)).square().mean()


@torch.no_grad()
def aims_of(model: Any, windows: Sequence[np.ndarray]) -> Aims:
    """Compute the aims of repair from the unpruned model."""
    layout = model.pruning_layout()
    scores, frames = [], []
    with watched_frames(model) as seen:
        for batch in batches_of(model, windows, 2):
            seen.clear()
            scores.append(layout.scores(batch).cpu())
            if seen:
                frames.append(torch.cat(seen, dim=2).half().cpu())
    # An encoder's number of frames follows the longest window of the batch, so it can differ between batches.
    if len({batch.shape[1:] for batch in frames}) != 1:
        return Aims(torch.cat(scores))
    stacked_frames = torch.cat(frames)
    deviation = stacked_frames.float().flatten(0, 1).std(dim=0) + LEAST_DEVIATION
    return Aims(torch.cat(scores), stacked_frames, deviation)


def repair(
    model: Any, windows: Sequence[np.ndarray], aims: Aims, options: PruningOptions, number: int, labels: torch.Tensor | None = None
) -> None:
    """Fine-tune a pruned model on windows, towards the unpruned model's scores and frames. Norms stay in evaluation mode.

    The number of the pruning step determines the order of the windows. `labels` `(W, L)` are listeners' scores, NaN if missing.
    """
    if not options.repair_steps:
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.0)
    warmup = math.ceil(WARMUP_SHARE * options.repair_steps)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, options.repair_steps)
    rng = np.random.default_rng([options.seed, number])
    layout = model.pruning_layout()
    with watched_frames(model) as seen:
        for _ in range(options.repair_steps):
            chosen = torch.from_numpy(rng.choice(len(windows), min(options.batch_size, len(windows)), replace=False))
            seen.clear()
            with torch.autocast(model.device.type, torch.bfloat16, enabled=options.bf16):
                scores = layout.scores(stacked(model, [windows[place] for place in chosen]))
            loss = F.smooth_l1_loss(scores.float(), aims.scores[chosen].to(scores.device), beta=0.1)
            if labels is not None and options.label_weight:
                given = labels[chosen].to(scores.device)
                rated = ~given.isnan()
                if rated.any():
                    loss = loss + options.label_weight * F.smooth_l1_loss(scores.float()[rated], given[rated], beta=0.1)
            if aims.frames is not None and seen:
                loss = loss + aims.frame_distance(torch.cat(seen, dim=2), chosen)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()


@torch.inference_mode()
def scores_of(model: Any, windows: Sequence[np.ndarray]) -> torch.Tensor:
    """Return a model's scores `(W, L)` of windows."""
    layout = model.pruning_layout()
    return torch.cat([layout.scores(batch).cpu() for batch in batches_of(model, windows, 2)]).clone()


def agreement_with(model: Any, windows: Sequence[np.ndarray], reference: torch.Tensor) -> dict[str, float]:
    """Return `lcc` and `rmse` between a model's scores and others `(W, L)`, averaged over the score names."""
    scores = scores_of(model, windows).numpy()
    by_name = [agreement(scores[:, column], reference[:, column].numpy()) for column in range(scores.shape[1])]
    return {metric: float(np.mean([values[f"utt_{metric}"] for values in by_name])) for metric in ("lcc", "rmse")}


def save_model(model: Any, folder: Path) -> None:
    """Save a model with its feature extractor."""
    model.save_pretrained(folder)
    model.make_feature_extractor().save_pretrained(folder)
