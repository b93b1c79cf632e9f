"""The page: tabs for a prompt, for models side by side, for Boltzmann machines live, and for likelihoods."""

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from genmodels.web import cards, limits
from genmodels.web.desk import Desk
from genmodels.web.endpoints import Endpoints
from genmodels.web.likelihoods import likelihoods
from genmodels.web.studio import Studio
from genmodels.web.wish import SHOWN, Wish

MOST_WAITING = 16  # requests; the next one is told that there is no room
_WORKING = "pictures"  # what draws does so one at a time
_SESSIONS = 100  # whose pictures are kept
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
_NO_TEXT = (
    "No model here draws from text. `make repro` trains one on digits, `dvc repro "
    "pipelines/text_to_image/dvc.yaml` one on emoji; `genmodels serve FOLDER` takes any."
)
STYLE = Path(__file__).with_name("style.css")


def theme() -> Any:
    """Return a theme whose fonts are those of the system: none is fetched."""
    mono = ["ui-monospace", "Consolas", "monospace"]
    found = gr.themes.Default(primary_hue="indigo", font=_FONTS, font_mono=mono)
    # gradio's own greys are too light to read for many.
    dim = {"body_text_color_subdued": "*neutral_600", "block_info_text_color": "*neutral_600"}
    return found.set(**dim, **{f"{name}_dark": "*neutral_300" for name in dim})


def page(studio: Studio) -> Any:
    """Return the page and its endpoints as gradio's Blocks, with a queue of 16."""
    desk, lines = Desk(studio), likelihoods(studio.entries.values())
    with gr.Blocks(title="genmodels", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML("<h1>genmodels</h1>")
        with gr.Tabs():
            with gr.Tab("Prompt"):
                _prompt(desk)
            with gr.Tab("Compare"):
                _compare(desk)
            with gr.Tab("Particles"):
                _particles(desk)
            with gr.Tab("Table"):
                gr.HTML(f'<div class="scroll">{cards.table(lines)}</div>')
        endpoints = Endpoints(studio, lines)
        for quick in (endpoints.models, endpoints.table):
            gr.api(quick, api_name=quick.__name__, queue=False)
        for slow in (endpoints.paint, endpoints.sample):
            gr.api(slow, api_name=slow.__name__, concurrency_id=_WORKING, concurrency_limit=1)
    blocks.state_session_capacity = _SESSIONS
    blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=1, api_open=False)
    return blocks


def _prompt(desk: Desk) -> None:
    models = desk.studio.names("text")
    if not models:
        gr.Markdown(_NO_TEXT)
        return
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            prompt = gr.Textbox(
                value="", label="Prompt", lines=1, max_lines=4, placeholder="a purple heart",
                info="((brackets)) are emphasis; Enter paints",
            )  # fmt: skip
            seed = _seed()
            n = gr.Slider(1, limits.MOST_PICTURES, value=4, step=1, label="Number of pictures")
            go, stop = _buttons("Paint")
            with gr.Accordion("More", open=False):
                negative = gr.Textbox(value="", label="Negative prompt", info="what to keep away from")
                steps = _steps()
                guidance = _guidance()
                model = gr.Dropdown(models, value=models[0], label="Model", visible=len(models) > 1)
        with gr.Column(scale=3, min_width=280):
            said = gr.HTML(cards.status("Say what the pictures are to show."))
            now = gr.HTML()
            gr.HTML("<h2>Earlier pictures</h2>")
            before = gr.HTML(cards.status("They come here when there are new ones."))
    kept = gr.State([])
    asked = [kept, model, prompt, negative, seed, steps, guidance, n]
    _on(desk.paint, [go.click, prompt.submit, seed.submit], stop, asked, [said, now, before, kept])


def _compare(desk: Desk) -> None:
    names = desk.studio.names()
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            models = gr.CheckboxGroup(names, value=_first_ones(desk.studio), label="Models")
            reads = bool(desk.studio.names("text"))
            prompt = gr.Textbox(value="", label="Prompt", info="of models that read one", visible=reads)
            seed = _seed()
            n = gr.Slider(1, limits.MOST_PICTURES, value=4, step=1, label="Number of pictures")
            go, stop = _buttons("Compare")
            with gr.Accordion("More", open=False):
                steps, guidance, shown = _steps(), _guidance(), _shown()
        with gr.Column(scale=3, min_width=280):
            said, rows = gr.HTML(cards.status("Choose models, and compare them at one seed.")), gr.HTML()
    asked = [models, prompt, seed, n, steps, guidance, shown]
    _on(desk.compare, [go.click, prompt.submit, seed.submit], stop, asked, [said, rows])


def _particles(desk: Desk) -> None:
    models = desk.studio.names("particles")
    if not models:
        gr.Markdown("No Boltzmann machine is served here.")
        return
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            model = gr.Dropdown(models, value=models[0], label="Boltzmann machine")
            seed = _seed()
            n = gr.Slider(1, limits.MOST_PICTURES, value=8, step=1, label="Number of particles")
            sweeps = gr.Slider(2, limits.MOST_SWEEPS, value=Wish.sweeps, step=1, label="Sweeps")
            beta = gr.Slider(
                0, limits.MOST_BETA, value=Wish.beta, step=0.05, label="β, inverse temperature",
                info="β rises from 0 in the first half of the sweeps; the model is at 1",
            )  # fmt: skip
            shown = _shown()
            go, stop = _buttons("Run")
        with gr.Column(scale=3, min_width=280):
            said, now = gr.HTML(cards.status("Chains start from noise.")), gr.HTML()
    asked = [model, n, seed, beta, sweeps, shown]
    _on(desk.particles, [go.click, seed.submit], stop, asked, [said, now])


def _on(handler: Any, triggers: list[Any], stop: Any, asked: list[Any], parts: list[Any]) -> None:
    """Have the handler called on each trigger, until `stop`; parts of which it says None stay as they are."""

    def shown(*values: Any) -> Any:
        for told in handler(*values):
            yield tuple(gr.skip() if part is None else part for part in told)

    work = {"inputs": asked, "outputs": parts, "show_progress": "hidden", "api_visibility": "private"}
    limit = {"concurrency_id": _WORKING, "concurrency_limit": 1}
    started = [trigger(shown, **work, **limit) for trigger in triggers]
    stopped = partial(cards.status, "Stopped.")
    stop.click(stopped, None, parts[0], cancels=started, queue=False, api_visibility="private")


def _first_ones(studio: Studio) -> list[str]:
    """Return a model of each kind, as far as there are any."""
    each = (studio.names(kind)[:1] for kind in ("text", "denoising", "particles", "draws"))
    return [name for some in each for name in some]


def _buttons(name: str) -> tuple[Any, Any]:
    with gr.Row():
        return gr.Button(name, variant="primary", min_width=100), gr.Button("Stop", min_width=100)


def _seed() -> Any:
    # A Number shows 0 where it is empty.
    return gr.Textbox(value="", label="Seed", info="empty: a new one each time", elem_classes="seed")


def _steps() -> Any:
    return gr.Slider(1, limits.MOST_STEPS, value=Wish.steps, step=1, label="Steps")


def _guidance() -> Any:
    return gr.Slider(0, limits.MOST_GUIDANCE, value=Wish.guidance, step=0.1, label="Guidance")


def _shown() -> Any:
    return gr.Radio(list(SHOWN), value=SHOWN[0], label="Show", info="of pixels, where the model has both")
