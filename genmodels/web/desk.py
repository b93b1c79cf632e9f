"""What happens on a request of the page: text and numbers in, HTML out, and readable errors."""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from genmodels.errors import InputError
from genmodels.networks.sketches import watched
from genmodels.web import cards, limits
from genmodels.web.picture import Picture
from genmodels.web.studio import Drawn, Frame, Studio
from genmodels.web.wish import Wish, spoken, wish

_KEPT = 48  # pictures of a session
_FAULTS = (InputError, FloatingPointError)
# What is said, pictures of now, pictures of before, all pictures; None where a part stays as it is.
Painted = tuple[str, str | None, str | None, list[Picture] | None]


class Desk:
    """The handlers of the page; each is a generator of what its parts show."""

    def __init__(self, studio: Studio) -> None:
        """Work with the models of a studio."""
        self.studio = studio

    def paint(
        self, kept: Sequence[Picture], model: Any, prompt: Any, negative: Any, seed: Any, steps: Any,
        guidance: Any, n: Any,
    ) -> Iterator[Painted]:  # fmt: skip
        """Yield pictures of a prompt while they come to be; those kept from before move down at the end."""
        try:
            name = limits.one_of("model", model, self.studio.names("text"))
            asked = {"prompt": prompt, "negative": negative, "steps": steps, "guidance": guidance}
            wanted = spoken(wish(seed=seed, n=n, **asked))
            yield cards.status("Reading the prompt …"), None, None, None
            drawn = yield from self._live(name, wanted, lambda said, shown: (said, shown, None, None))
        except _FAULTS as error:
            yield cards.alert(str(error)), None, None, None
            return
        now, before = cards.cards(drawn.pictures), cards.cards(kept)
        yield _said(drawn, wanted), now, before, [*drawn.pictures, *kept][:_KEPT]

    def compare(
        self, models: Any, prompt: Any, seed: Any, n: Any, steps: Any, guidance: Any, shown: Any
    ) -> Iterator[tuple[str, str]]:
        """Yield what is said, and a row a model."""
        rows: list[str] = []
        try:
            names = limits.names("models", models, self.studio.names())
            asked = {"prompt": prompt, "steps": steps, "guidance": guidance, "shown": shown}
            wanted = wish(seed=seed, n=n, **asked)
        except InputError as error:
            yield cards.alert(str(error)), ""
            return
        for name in names:

            def with_rows(said: str, live: str, name: str = name) -> tuple[str, str]:
                return said, "".join([*rows, cards.row(name, live)])

            try:
                drawn = yield from self._live(name, wanted, with_rows)
                rows.append(cards.row(name, cards.cards(drawn.pictures) + _notes(drawn)))
            except _FAULTS as error:
                rows.append(cards.row(name, cards.alert(str(error))))
        yield cards.status(f"{len(names)} models at seed {wanted.seed}."), "".join(rows)

    def particles(
        self, model: Any, n: Any, seed: Any, beta: Any, sweeps: Any, shown: Any
    ) -> Iterator[tuple[str, str | None]]:
        """Yield what is said, and the particles of a Boltzmann machine."""
        try:
            name = limits.one_of("model", model, self.studio.names("particles"))
            wanted = wish(seed=seed, n=n, beta=beta, sweeps=sweeps, shown=shown)
            drawn = yield from self._live(name, wanted, lambda said, live: (said, live))
        except _FAULTS as error:
            yield cards.alert(str(error)), None
            return
        yield _said(drawn, wanted), cards.cards(drawn.pictures)

    def _live(self, name: str, wanted: Wish, shown: Callable[[str, str], Any]) -> Generator[Any, None, Drawn]:
        shape, unit = self.studio.entries[name].shape, "step"
        if self.studio.entries[name].kind == "particles":
            unit = "sweep"
        way = self.studio.draw(name, wanted)
        yield shown(cards.status(f"{name}: starting …"), "")

        def look(frame: Frame) -> Any:
            said = f"{name}: {unit} {frame.done} of {frame.total}"
            return shown(cards.status(said), cards.sheet(frame, shape))

        return (yield from watched(way, look))


def _said(drawn: Drawn, wanted: Wish) -> str:
    many = "1 picture" if len(drawn.pictures) == 1 else f"{len(drawn.pictures)} pictures"
    return cards.status(f"{many} of seed {wanted.seed}.") + _notes(drawn)


def _notes(drawn: Drawn) -> str:
    return "".join(cards.status(note) for note in drawn.notes)
