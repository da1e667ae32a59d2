"""The page in Gradio: score one recording, compare two, score many."""

import csv
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Gradio reads this on import: the page must not send usage data.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from gradio_client.utils import is_http_url_like

from hf_sqa.cells import csv_cell, file_row
from hf_sqa.demo import page
from hf_sqa.demo.clips import write_clips
from hf_sqa.demo.scorers import Judgement, Scorers, unused

TITLE = "How good does this speech sound?"
ABOUT = (
    "Scores on the five-point scale of listeners, without a reference. They compare recordings rated in one test; they are not "
    "absolute, and say nothing about languages or defects that are not in a model's training data."
)
MAX_FILE_SIZE = "200mb"
#: Visitors scored at once; the others wait in a queue.
CONCURRENCY = 2
#: Seconds between two updates of a growing table.
TABLE_SECONDS = 0.5
#: Uploads are deleted after this many seconds.
FORGET_SECONDS = 3600
#: Errors that a visitor sees, above all that a model cannot be loaded.
ERRORS = (OSError, ValueError, RuntimeError, ImportError)


def build(models: Scorers | Sequence[str | Path] = ()) -> gr.Blocks:
    """Build the page, without serving it, for models that a visitor can choose; the default model if none is given."""
    scorers = models if isinstance(models, Scorers) else Scorers(models)
    with (
        tempfile.TemporaryDirectory(prefix="hf-sqa-clips-") as folder,  # Gradio copies the clips into its cache
        gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(FORGET_SECONDS, FORGET_SECONDS)) as demo,
    ):
        clips = write_clips(Path(folder))
        gr.Markdown(f"# {TITLE}\n{ABOUT}")
        model = gr.Dropdown(scorers.names, value=scorers.names[0], label="Model", elem_id="model", filterable=False)
        with gr.Tab("Score"):
            _score_tab(scorers, model, clips)
        with gr.Tab("Compare"):
            _compare_tab(scorers, model, clips)
        with gr.Tab("Many"):
            _many_tab(scorers, model)
        _tool(scorers, model)
    demo.queue(default_concurrency_limit=CONCURRENCY)
    return demo


def launch(demo: gr.Blocks, **options: Any) -> Any:
    """Serve the page; `**options` are those of `gradio.Blocks.launch`. It uses the visitor's system fonts."""
    for component in demo.blocks.values():
        if isinstance(component, gr.Audio | gr.File) and not options.get("mcp_server"):  # MCP clients send addresses
            _take_uploads_only(component)
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
    theme = gr.themes.Default(primary_hue="blue", font=fonts, font_mono=("ui-monospace", "Consolas", "monospace"))
    settings: dict[str, Any] = {"theme": theme, "css": page.CSS, "footer_links": [], "ssr_mode": False}
    return demo.launch(**settings | {"max_file_size": MAX_FILE_SIZE} | options)


def _score_tab(scorers: Scorers, model: gr.Dropdown, clips: dict[str, str]) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            audio = _recorder("Recording: drop a file, or record", "recording")
            gr.Examples([[path] for path in clips.values()], audio, label="Examples", example_labels=list(clips))
        with gr.Column(scale=3, min_width=300):
            result = gr.HTML(page.message("The score appears here."), elem_id="result")

    def score(path: str | None, name: str) -> str:
        """Scores a recording and shows score, course and findings as HTML."""
        if path is None:
            return page.message("The score appears here.")
        return _shown(lambda: page.judged(scorers.judge(name, path)))

    gr.on([audio.change, model.change], score, [audio, model], result, api_name="score", trigger_mode="always_last")


def _compare_tab(scorers: Scorers, model: gr.Dropdown, clips: dict[str, str]) -> None:
    with gr.Row():
        first = _recorder("Recording A", "first")
        second = _recorder("Recording B", "second")
    paths = list(clips.values())
    gr.Examples([paths[:2], [paths[0], paths[2]]], [first, second], label="Examples", example_labels=[*list(clips)[1:3]])
    result = gr.HTML(page.message("Two recordings, side by side."), elem_id="comparison")

    def compare(one: str | None, other: str | None, name: str) -> str:
        """Compares two recordings by their scores, as HTML."""
        if one is None or other is None:
            missing = " and ".join(label for label, path in (("A", one), ("B", other)) if path is None)
            return page.message(f"Waiting for recording {missing}.")
        return _shown(lambda: page.compared(scorers.judge(name, one), scorers.judge(name, other)))

    gr.on(
        [first.change, second.change, model.change],
        compare,
        [first, second, model],
        result,
        api_name="compare",
        trigger_mode="always_last",
    )
    _sets(scorers, model)


def _sets(scorers: Scorers, model: gr.Dropdown) -> None:
    with gr.Accordion("Or two sets of recordings, such as two builds of a codec", open=False, elem_id="sets"):
        with gr.Row():
            first, second = (
                gr.File(label=f"Recordings of {name}", file_count="multiple", height=160, elem_id=f"set-{name.lower()}")
                for name in "AB"
            )
        start = gr.Button("Compare them", variant="primary", elem_id="start-sets")
        result = gr.HTML(page.message("Files of one name are compared with each other."), elem_id="sets-result")

    def compare_sets(one: list[str] | None, other: list[str] | None, name: str) -> str:
        """Compares two sets of recordings, paired where file names match, as HTML."""
        if not one or not other:
            return page.message("Choose files for A and for B first.", alert=True)
        return _shown(lambda: page.judged_sets(scorers, name, one, other))

    start.click(compare_sets, [first, second, model], result, api_name="compare_sets", show_progress="minimal")


def _many_tab(scorers: Scorers, model: gr.Dropdown) -> None:
    with gr.Row():
        files = gr.File(label="Recordings: drop files here", file_count="multiple", height=180, elem_id="files")
        in_folder = gr.File(
            label="Or a folder: its audio files", file_count="directory", file_types=["audio"], height=180, elem_id="folder"
        )
    with gr.Row():
        start = gr.Button("Score them", variant="primary", elem_id="start")
        stop = gr.Button("Stop", elem_id="stop")
        download = gr.DownloadButton("Download CSV", elem_id="download", interactive=False)
    status = gr.HTML(page.message("A row per recording, those that cannot be scored with their reason."), elem_id="status")
    table = gr.HTML(elem_id="table")

    def score_many(chosen: list[str] | None, also: list[str] | None, name: str) -> Iterator[tuple[str, Any, Any]]:
        """Scores many recordings into a table, as HTML and CSV."""
        paths = [*(chosen or []), *(also or [])]
        if not paths:
            yield page.message("Choose files or a folder first.", alert=True), gr.skip(), gr.skip()
            return
        try:
            scorers.load(name)
        except ERRORS as error:
            yield page.message(str(error), alert=True), gr.skip(), gr.skip()
            return
        with (
            tempfile.TemporaryDirectory(prefix="hf-sqa-scores-") as folder,
            (Path(folder) / "scores.csv").open("w", encoding="utf-8", newline="") as written,
        ):
            judged: list[tuple[str, Judgement]] = []
            writer, shown = csv.writer(written), 0.0
            for path in paths:
                # Several folders may hold the same name.
                label = unused(Path(path).stem, [label for label, _ in judged], Path(path).suffix)
                judgement = scorers.judge(name, path)
                row = table_row(judgement, label)
                if not judged:
                    writer.writerow(row)
                writer.writerow(map(csv_cell, row.values()))
                written.flush()
                judged.append((label, judgement))
                if len(judged) == len(paths) or time.monotonic() - shown > TABLE_SECONDS:
                    shown = time.monotonic()
                    failed = sum(not judgement.is_scored for _, judgement in judged)
                    without = f", {failed} without a score: their rows say why." if failed else "."
                    progress = page.message(f"{len(judged)} of {len(paths)} done{without}")
                    yield progress, page.tabled(judged), gr.DownloadButton(value=written.name, interactive=True)

    run = start.click(
        score_many, [files, in_folder, model], [status, table, download], api_name="score_many", show_progress="minimal"
    )
    stop.click(None, cancels=[run], api_visibility="private")


def _tool(scorers: Scorers, model: gr.Dropdown) -> None:
    """Add a call for programs that does not appear on the page; it returns the row of one recording."""
    audio = gr.Audio(type="filepath", visible=False)
    row = gr.JSON(visible=False)

    def score_recording(recording: str | None, model: str) -> dict[str, Any]:
        """Scores how good the speech in a recording sounds, on the five-point scale of listeners, without a reference.

        Args:
            recording: The audio file.
            model: One of the models of this page.

        Returns:
            A row: the scores, status, warnings, duration; or the reason why it cannot be scored.
        """
        if recording is None:
            raise gr.Error("Expected a recording, got none.")
        judgement = scorers.judge(model, recording)
        return table_row(judgement, judgement.name)

    gr.Button(visible=False).click(score_recording, [audio, model], row, api_name="score_recording")


def table_row(judgement: Judgement, label: str) -> dict[str, Any]:
    """Return a row of the table and of the CSV, as `hf-sqa score --output` writes it."""
    row = judgement.row
    ends = ("", "_low", "_high") if judgement.coverage is not None else ("",)
    columns = [f"{scale.name}{end}" for scale in judgement.scales for end in ends if f"{scale.name}{end}" in row]
    return file_row(label, columns, row)


def _recorder(label: str, elem_id: str) -> gr.Audio:
    return gr.Audio(label=label, sources=["upload", "microphone"], type="filepath", editable=False, buttons=[], elem_id=elem_id)


def _take_uploads_only(component: Any) -> None:
    """Keep a component from fetching an address that a request gives instead of a file."""
    moved = component.async_move_resource_to_block_cache

    async def move(path: Any) -> Any:
        if is_http_url_like(str(path)):
            raise gr.Error("Expected an uploaded file, got an address: the page fetches none. Download it, then drop it here.")
        return await moved(path)

    component.async_move_resource_to_block_cache = move


def _shown(show: Callable[[], str]) -> str:
    try:
        return show()
    except ERRORS as error:
        return page.message(str(error), alert=True)
