"""`AudioQualityTrainer`: the Trainer of transformers for rated speech.

In addition, it reads and cuts the audio, batches by length if padding would change a score, leaves missing scores and unreadable
recordings out of the loss, weights every process by its number of labels, and validates every clip once, at utterance and system
level.
"""

import logging
import math
import signal
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PrinterCallback, Trainer
from transformers.trainer_utils import EvalLoopOutput

from hf_sqa.data.collator import AudioQualityCollator
from hf_sqa.metrics import agreement, fit_mapping, lcc, rmse
from hf_sqa.modeling import AudioQualityPreTrainedModel
from hf_sqa.training.arguments import AudioQualityTrainingArguments, greater_is_better
from hf_sqa.training.callbacks import Interrupt, StopAtNaN, StopWithoutProgress, Waiting
from hf_sqa.training.examples import Augmentation, EpochBatches, Examples, RatedSpeech
from hf_sqa.training.losses import make_training_loss
from hf_sqa.training.muon import Muon, muon_groups
from hf_sqa.training.order import OrderedGroups, order_loss
from hf_sqa.training.recipe import OrderOptions

logger = logging.getLogger(__name__)

#: Keys that the collator adds for the trainer, not for the model.
NOT_INPUTS = ("rows", "failures")
#: With fewer systems a rank correlation means next to nothing: with two it is 1 or -1.
MIN_SYSTEMS = 3


class AudioQualityTrainer(Trainer):
    """Trains any family on rated speech.

    Args:
        model ([`AudioQualityPreTrainedModel`] or `PeftModel`): The model; its `config.score_names` are the columns of labels.
        args ([`AudioQualityTrainingArguments`]): Options.
        train_dataset, eval_dataset (`datasets.Dataset`, sequence of `dict` or [`Examples`]): Rows as `load_corpus` gives them.
        processing_class (*optional*): The feature extractor; made by the model if not given.
        augmentation ([`Augmentation`], *optional*): Degradations for training.
        loss (`LossOptions`, *optional*): The section `loss` of a recipe. It is used only for a loss that needs more than
            predictions and labels; otherwise the loss inside the model is used.
        order (`OrderOptions`, *optional*): The section `order` of a recipe: groups of versions with a known order.
        callbacks (*optional*): As for [`Trainer`].

    Attributes:
        failures (`dict[str, tuple[str, str]]`): Recordings that could not be read so far, with code and message.
        waiting ([`Waiting`]): How long this process has waited for its data.
    """

    args: AudioQualityTrainingArguments

    def __init__(
        self,
        model: Any,
        args: AudioQualityTrainingArguments,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        augmentation: Augmentation | None = None,
        loss: Any = None,
        order: OrderOptions | None = None,
        callbacks: list[Any] | None = None,
        **kwargs: Any,
    ):
        self.quality_model = base_model(model)
        config = self.quality_model.config
        self.score_names: list[str] = config.score_names
        self.window_samples: int | None = self.quality_model.window_samples
        self.batching = args.batching
        if self.batching == "auto":
            self.batching = "pad" if self.quality_model.pads_safely else "crop"
        self.failures: dict[str, tuple[str, str]] = {}
        self.waiting = Waiting()
        train = train_dataset
        if train is not None and not isinstance(train, Examples):
            train = RatedSpeech(
                train,
                self.score_names,
                config.sampling_rate,
                max_seconds=args.max_seconds,
                window_samples=self.window_samples,
                augmentation=augmentation,
                seed=args.data_seed if args.data_seed is not None else args.seed,
            )
        if eval_dataset is None and args.eval_strategy != "no":
            raise ValueError(
                "Expected validation rows, got none: name some (`data.validation`), take a part of the training rows "
                "(`data.split: {share: 0.2}`), or train without validation by `eval_strategy='no'`."
            )
        self.training_loss = (
            make_training_loss(loss, train.corpora, len(self.score_names)) if loss is not None and train is not None else None
        )
        self.order = (
            OrderedGroups(order, len(self.score_names), config.sampling_rate, self.window_samples, args.seed)
            if order is not None
            else None
        )
        evaluated = self._as_evaluated(eval_dataset) if eval_dataset is not None else None
        extractor = processing_class if processing_class is not None else self.quality_model.make_feature_extractor()
        if evaluated is not None:
            first = next(iter(evaluated.values())) if isinstance(evaluated, Mapping) else evaluated
            if args.chooses_metric:
                args.metric_for_best_model = choose_metric(first)
                args.greater_is_better = greater_is_better(args.metric_for_best_model)
            _warn_of_undefined_metrics(first, args.metric_for_best_model)
        super().__init__(
            model=model,
            args=args,
            data_collator=AudioQualityCollator(extractor, lengths=self.batching, window_samples=self.window_samples),
            train_dataset=train,
            eval_dataset=evaluated,
            processing_class=extractor,
            callbacks=callbacks,
            **kwargs,
        )
        # The `forward` of our families takes no `num_items_in_batch`. Through a PEFT wrapper the Trainer does not see this, and
        # would multiply the loss by the number of processes.
        self.model_accepts_loss_kwargs = False
        self.remove_callback(PrinterCallback)
        if args.early_stopping_patience is not None and evaluated is not None:
            watched = args.early_stopping_metrics or [str(args.metric_for_best_model)]
            self.add_callback(StopWithoutProgress(args.early_stopping_patience, watched))
        self.add_callback(StopAtNaN())
        self._frozen = frozen_modules(self.quality_model)

    # ---- Data

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """See `Trainer.get_batch_samples`; the time spent is counted."""
        return self.waiting.watch(lambda: super(AudioQualityTrainer, self).get_batch_samples(*args, **kwargs))

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches of this process; their order follows from the seed and the epoch alone."""
        if self.train_dataset is None:
            raise ValueError("Expected `train_dataset` to train on, got none.")
        data: Any = self.train_dataset
        similar = self.window_samples is None and self.batching in ("pad", "crop", "repeat")
        batches = EpochBatches(
            len(data),
            self._train_batch_size,
            seed=data.seed,
            seconds=data.seconds() if similar and self.args.bucket_by_length else None,
            groups=data.lengths if self.window_samples is None and self.batching == "equal" else None,
            process_index=self.args.process_index,
            num_processes=self.args.world_size,
            drop_last=self.args.dataloader_drop_last,
        )
        loader = self._loader(data, batches, self.data_collator)

        def set_epoch(epoch: int) -> None:
            batches.set_epoch(epoch)
            if self.training_loss is not None:
                self.training_loss.begin_epoch(epoch, data, self.joined)

        loader.set_epoch = set_epoch  # type: ignore[attr-defined]  # called by the Trainer
        return loader

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Return every clip once, whole, in batches that do not change its score."""
        if isinstance(eval_dataset, str):
            eval_dataset = dict(self.eval_dataset or {})[eval_dataset]  # type: ignore[arg-type]
        if eval_dataset is None and self.eval_dataset is None:
            raise ValueError("Expected `eval_dataset` to evaluate on, got none.")
        data = self._as_evaluated(eval_dataset if eval_dataset is not None else self.eval_dataset)
        pads = self.quality_model.pads_safely
        batches = EpochBatches(
            len(data),
            self.args.eval_batch_size,
            seconds=data.seconds() if pads else None,
            groups=None if pads else data.lengths,
            shuffle=False,
            process_index=self.args.process_index,
            num_processes=self.args.world_size,
        )
        return self._loader(data, batches, AudioQualityCollator(self.processing_class, lengths="pad" if pads else "equal"))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """See [`get_eval_dataloader`]; test rows are treated as validation rows."""
        return self.get_eval_dataloader(test_dataset)

    def _loader(self, data: Examples, batches: EpochBatches, collator: Any) -> DataLoader:
        # Accelerate does not prepare this loader, because the batches are already divided among the processes.
        workers = self.args.dataloader_num_workers
        return DataLoader(
            data,
            batch_sampler=batches,
            collate_fn=collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            persistent_workers=bool(workers) and self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
            worker_init_fn=_ignore_interrupts if workers else None,
            # Spawn, do not fork: in a copy of a process that has computed, torch waits for threads that do not exist.
            multiprocessing_context="spawn" if workers else None,
            generator=torch.Generator().manual_seed(0),  # otherwise making an iterator would draw from the global generator
        )

    def _as_evaluated(self, data: Any) -> Any:
        if isinstance(data, Examples):
            return data
        if isinstance(data, Mapping):
            return {name: self._as_evaluated(part) for name, part in data.items()}
        return RatedSpeech(data, self.score_names, self.quality_model.config.sampling_rate, training=False)

    # ---- Loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Return the mean loss over all labels in the batches of all processes."""
        inputs = dict(inputs)
        rows, failures = (inputs.pop(name, None) for name in NOT_INPUTS)
        self._note(failures)
        training = model.training
        if training:
            for module in self._frozen:
                module.eval()
        outputs = model(**inputs)
        loss = outputs["loss"]
        if self.training_loss is not None:
            data = self.train_dataset if training else None
            loss = self.training_loss(outputs, inputs["labels"], rows, data, self.epoch)
        if training and self.args.world_size > 1:
            loss = loss * self._share(inputs["labels"])
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Train on a batch; if an order is given, also add the gradient of [`order_loss`], once per optimiser step."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.order is None or not self.accelerator.sync_gradients:
            return loss
        examples, known = self.order.draw(self.state.global_step, self.args.process_index)
        collated: Any = self.data_collator(examples)
        batch = self._prepare_inputs({name: value for name, value in collated.items() if name not in NOT_INPUTS})
        # Statistics over versions of one sentence are not those of speech, so norms use and keep their present ones.
        norms = [
            module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.training
        ]
        for norm in norms:
            norm.eval()
        with self.compute_loss_context_manager():
            scores = model(**batch)["logits"][:, 0].float()
        for norm in norms:
            norm.train()
        known = {name: value.to(scores.device) for name, value in known.items()}
        term = self.order.options.weight * order_loss(scores, margin=self.order.options.margin, **known)
        self.accelerator.backward(term * self.accelerator.gradient_accumulation_steps)
        return loss + term.detach() / self.args.gradient_accumulation_steps

    @property
    def epoch(self) -> int:
        """Epoch of the next step."""
        return int((self.state.epoch or 0) + 1e-9)

    def _share(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the number of labels here over its mean of all processes: gradients are averaged over processes, not over labels.

        The processes also agree here on whether Ctrl-C was pressed, because all have to stop after the same step.
        """
        interrupts = [callback for callback in self.callback_handler.callbacks if isinstance(callback, Interrupt)]
        num_rated = (~torch.isnan(labels)).sum().float()
        is_interrupted = num_rated.new_tensor(any(interrupt.requested for interrupt in interrupts))
        gathered = self.accelerator.gather(torch.stack([num_rated, is_interrupted])[None])
        for interrupt in interrupts:
            interrupt.agreed = bool(gathered[:, 1].any())
        return num_rated / gathered[:, 0].mean().clamp(min=1e-6)

    def _note(self, failures: list[tuple[str, str, str]] | None) -> None:
        for source, code, message in failures or []:
            if source not in self.failures:
                self.failures[source] = (code, message)
                logger.warning("Left out of training and validation from now on: %s", message)

    # ---- Checkpoints

    def create_optimizer(self, model: Any = None) -> Any:
        """See [`Trainer.create_optimizer`]; [`Muon`] if `args.muon_learning_rate` is given."""
        if (learning_rate := self.args.muon_learning_rate) is not None and self.optimizer is None:
            args, model = self.args, self.model if model is None else model
            adam = {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
            decayed = self.get_decay_parameter_names(model)
            self.optimizer = Muon(muon_groups(model, learning_rate, adam, args.weight_decay, decayed))
        return super().create_optimizer(model)

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """See [`Trainer.train`]."""
        if resume_from_checkpoint and self.training_loss is not None:
            self.training_loss.load(Path(resume_from_checkpoint), self.args.process_index)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.training_loss is not None:
            self.training_loss.save(Path(output_dir), self.args.process_index)

    # ---- The Hub

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Note where to publish. The repository is created later, once a checked model is ready for it."""
        self.hub_model_id = self.args.hub_model_id  # type: ignore[assignment]

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **options: Any,
    ) -> Any:
        """Publish the model, or its adapter, with all checks and additions of `hf-sqa push`.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`): Title of the commit.
            blocking (`bool`, *optional*, defaults to `True`): Only `True`, so that on return the outcome is known.
            token, revision, private (*optional*): If not given, those of the training arguments (`hub_token`, `hub_revision`,
                `hub_private_repo`).
            **options: Options of `hf_sqa.hub.publish.publish`, such as `license`.

        Returns:
            `Publication`: What was published, and where; `None` in all processes but the first.

        Raises:
            PublishError: If a check fails; then nothing was sent.
        """
        if not blocking:
            raise ValueError("Expected `blocking=True`, got False: a push that is not waited for can be cut off unseen.")
        if self.args.hub_model_id is None:
            raise ValueError("Expected `hub_model_id='owner/name'` in the arguments, to know where to publish; got none.")
        if not self.is_world_process_zero():
            return None
        model = self.accelerator.unwrap_model(self.model)
        publish: Any = AudioQualityPreTrainedModel.publish
        return publish(
            model,
            self.args.hub_model_id,
            feature_extractor=self.processing_class,
            message=commit_message,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            private=self.args.hub_private_repo if private is None else private,
            **options,
        )

    # ---- Validation

    @torch.no_grad()
    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Score every row once, whatever the number of processes, and compare the scores with the labels.

        Predictions and labels are `(num_rows, num_labels)` in the order of the rows, NaN if a recording could not be read.
        """
        data: Any = dataloader.dataset
        unwrapped: Any = self.model
        model: Any = self._wrap_model(unwrapped, training=False, dataloader=dataloader)
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            model = self.model_wrapped
        was_training = model.training
        model.eval()
        predictions = np.full(data.labels.shape, np.nan, np.float32)
        total_loss, total_rated = 0.0, 0
        for batch in dataloader:
            inputs = self._prepare_inputs(batch)
            with self.compute_loss_context_manager():
                loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
            rated = int((~torch.isnan(inputs["labels"])).sum())
            total_loss, total_rated = total_loss + float(loss) * rated, total_rated + rated
            rows = inputs["rows"].cpu().numpy()
            predictions[rows[rows >= 0]] = outputs["logits"].float().cpu().numpy()[rows >= 0]
        predictions = self.joined(predictions)
        if self.args.world_size > 1:
            sums = torch.tensor([[total_loss, total_rated]], dtype=torch.float64, device=self.args.device)
            total_loss, total_rated = self.accelerator.gather(sums).sum(dim=0).tolist()
        if was_training:
            model.train()
        metrics = validation_metrics(predictions, data, self.score_names)
        metrics["loss"] = total_loss / total_rated if total_rated else math.nan
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=predictions, label_ids=data.labels, metrics=metrics, num_samples=len(data))

    def joined(self, values: np.ndarray) -> np.ndarray:
        """Merge arrays `(num_rows, num_labels)` of all processes: each row is filled in one process, and NaN in the others."""
        if self.args.world_size == 1:
            return values
        parts = self.accelerator.gather(torch.from_numpy(values)[None].to(self.args.device)).cpu().numpy()
        filled = ~np.isnan(parts)
        return np.where(filled.any(axis=0), np.where(filled, parts, 0).sum(axis=0), np.nan).astype(values.dtype)


def validation_metrics(predictions: np.ndarray, data: Examples, score_names: list[str]) -> dict[str, float]:
    """Measure by [`agreement`] and [`corpus_agreement`] how predictions `(num_rows, num_labels)` agree with the labels.

    With several scores, the keys follow the name of each score (`noisiness_utt_srcc`), and the plain keys hold the mean over them.
    """
    each = {
        name: agreement(predictions[:, column], data.labels[:, column], systems=data.systems, conditions=data.conditions)
        | corpus_agreement(predictions[:, column], data.labels[:, column], data.corpora)
        for column, name in enumerate(score_names)
    }
    if len(each) == 1:
        return each[score_names[0]]
    metrics = {f"{score}_{name}": value for score, agreed in each.items() for name, value in agreed.items()}
    for name in each[score_names[0]]:
        values = [agreed[name] for agreed in each.values() if not math.isnan(agreed[name])]
        metrics[name] = math.nan if not values else sum(values) if name.startswith("num_") else sum(values) / len(values)
    return metrics


def corpus_agreement(predictions: np.ndarray, labels: np.ndarray, corpora: Sequence[str]) -> dict[str, float]:
    """Compute what NISQA's training watches from scores `(num_rows,)`, NaN if missing, and the corpus of each row.

    `corpus_lcc` and `corpus_mapped_rmse`, the error after a first-order mapping with one degree of freedom, are computed within
    each corpus and averaged over the corpora; NaN if no corpus has enough clips.
    """
    values: dict[str, list[float]] = {"corpus_lcc": [], "corpus_mapped_rmse": []}
    for corpus in sorted(set(corpora)):
        rows = (np.asarray(corpora) == corpus) & ~np.isnan(predictions) & ~np.isnan(labels)
        mapped = fit_mapping(predictions[rows], labels[rows], "first")(predictions[rows])
        values["corpus_lcc"].append(lcc(predictions[rows], labels[rows]))
        values["corpus_mapped_rmse"].append(rmse(mapped, labels[rows], degrees_of_freedom=1))
    return {name: float(np.nanmean(of)) if not np.isnan(of).all() else math.nan for name, of in values.items()}


def choose_metric(data: Examples) -> str:
    """Choose the metric for the best checkpoint: over systems if there are enough of them, else over clips."""
    return "utt_mse" if _is_constant(data) else "sys_srcc" if _num_systems(data) >= MIN_SYSTEMS else "utt_srcc"


def base_model(model: Any) -> Any:
    """Return the family's model inside an adapter's wrapper, or the model itself."""
    return model if isinstance(model, PreTrainedModel) else model.get_base_model()


def frozen_modules(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the outermost modules without trained weights. They train without dropout and keep the statistics of their norms."""
    frozen: list[torch.nn.Module] = []
    for module in model.children():
        is_trained = [parameter.requires_grad for parameter in module.parameters()]
        if any(is_trained):
            frozen += frozen_modules(module)
        elif is_trained:
            frozen.append(module)
    return frozen


def _is_constant(data: Examples) -> bool:
    spread = [np.ptp(column[~np.isnan(column)]) if (~np.isnan(column)).any() else 0 for column in data.labels.T]
    return max(spread) == 0


def _num_systems(data: Examples) -> int:
    return len(set(data.systems or []) - {None})


def _warn_of_undefined_metrics(data: Examples, metric: str | None) -> None:
    num_systems = _num_systems(data)
    if _is_constant(data):
        doubt = f"All labels of the {data.name} are {np.nanmax(data.labels):g}: correlations with them are undefined"
    elif 0 < num_systems < MIN_SYSTEMS:
        systems = f"{num_systems} system{'s' if num_systems > 1 else ''}"
        doubt = f"The {data.name} hold clips of {systems} only: a correlation over systems needs {MIN_SYSTEMS} or more"
    else:
        return
    warnings.warn(f"{doubt}; the best checkpoint is chosen by {metric}.", UserWarning, stacklevel=3)


def _ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C to the training process, which stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
