"""The metric's page on the Hub: paste two columns of numbers, read the agreement."""

from hf_sqa.metrics import agreement


def table(predictions: str, references: str, systems: str) -> list[list[str]]:
    """Return rows of metric and value for pasted columns with one number (or system name) per line."""
    columns = [[float(line) for line in text.split()] for text in (predictions, references)]
    named = systems.split() or None
    result = agreement(columns[0], columns[1], systems=named)
    return [[name, f"{value:.4g}"] for name, value in result.items()]


def main() -> None:
    """Serve the page."""
    import gradio

    with gradio.Blocks(title="Speech Quality Agreement") as page:
        gradio.Markdown("# Speech Quality Agreement\nPaste a number a line. Systems are optional, a name a line.")
        with gradio.Row():
            boxes = [gradio.Textbox(label=label, lines=12) for label in ("Predicted scores", "Mean opinion scores", "Systems")]
        button = gradio.Button("Compute")
        result = gradio.Dataframe(headers=["metric", "value"], label="Agreement")

        def computed(*texts: str) -> list[list[str]]:
            try:
                return table(*texts)
            except ValueError as error:
                raise gradio.Error(str(error)) from None

        button.click(computed, boxes, result)
    page.launch()


if __name__ == "__main__":
    main()
