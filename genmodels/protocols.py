"""The contracts between the rooms: models, kernels, samplers, learners, placement.

Data are batches of flattened images in raster order, float32, shape (image, site); `Model.domain` says
in which values: "spin" x ∈ {−1, +1}, "binary" v ∈ {0, 1} (x = 2v − 1), "grey" levels 0 … K − 1.
A model offers only the methods that are true of it; test with `isinstance(model, HasLogProb)`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from genmodels.couplings import Bipartite, Couplings
from genmodels.streams import Key, Streams

Domain = Literal["spin", "binary", "grey"]


class Contrasted(NamedTuple):
    """Averages over data and over a model, compared."""

    difference: dict[str, Tensor]  # ⟨s⟩_data − ⟨s⟩_model, by parameter
    means: dict[str, Tensor]  # of the data's units, by their bias


class Labelled(NamedTuple):
    """A batch of images of known classes."""

    x: Tensor  # (image, site)
    labels: Tensor  # (image,), int64


@runtime_checkable
class Model(Protocol):
    """What every model is: an nn.Module that can be written down as its arguments and its tensors."""

    domain: Domain

    def args(self) -> dict[str, Any]:
        """Return the JSON-ready constructor arguments: `type(model)(**model.args())` has the same shape."""
        ...

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return all tensors that make the model, by name."""
        ...


def levels_of(model: Any) -> int:
    """Return K of a Model's images of levels 0 … K − 1: its argument `levels`, else 2, black and white."""
    return int(model.args().get("levels", 2))


@runtime_checkable
class HasEnergy(Protocol):
    """An energy model: q_{θ,β}(x) ∝ exp(−β E(x)); with hidden units x is the joint configuration."""

    n_sites: int

    def energy(self, x: Tensor) -> Tensor:  # (replica, site) -> (replica,)
        """Return E_θ(x) in nats at β = 1."""
        ...


@runtime_checkable
class HasBlocks(Protocol):
    """An energy model whose sites fall into blocks, independent within a block given the others."""

    blocks: tuple[slice | Tensor, ...]  # ranges, or indices of sites

    def conditional(self, block: int, x: Tensor, beta: Tensor) -> Tensor:  # (replica, site), (replica,)
        """Return P_β(x_i = +1 | rest) of the sites of `block`  # (replica, sites of the block)."""
        ...


@runtime_checkable
class HasCouplings(Protocol):
    """An energy model that is quadratic in spins."""

    def couplings(self) -> Couplings:
        """Return its couplings and fields."""
        ...


@runtime_checkable
class HasBipartite(Protocol):
    """An energy model that is quadratic in two sides of spins, which are its blocks."""

    def bipartite(self) -> Bipartite:
        """Return its matrix and fields, views of the parameters where that is possible."""
        ...


@runtime_checkable
class HasContrast(Protocol):
    """A model with statistics that has their difference between two sets of images for less than both."""

    def contrast(self, data: Tensor, fantasy: Tensor, first: Tensor | None = None) -> Contrasted:
        """Return what `statistics` tells of the data less what it tells of the fantasies.

        Args:
            data: Images  # (image, visible), ±1
            fantasy: Configurations, or their visible sites, as precise as the products  # (replica, site)
            first: Fields of the data on the hidden units, but for these units' own, if known.
        """
        ...


class Chained(NamedTuple):
    """Markov chains of block Gibbs at β = 1 that a step of learning takes the model's averages over."""

    start: Tensor  # whole configurations, or images whose hidden units are drawn first  # (chain, site)
    n_sweeps: int
    lasting: bool  # whether they are wanted after the step; those that start at its images are not


class Pace(NamedTuple):
    """How far a step of learning goes."""

    rate: float  # step over direction
    weight_decay: float
    slide: float  # share of the images in the centres; 0 for centres that stay


class Stepped(NamedTuple):
    """What a step of learning leaves behind besides the parameters."""

    norm: float  # of the direction; if it is not finite, the parameters are those before the step
    mismatch: float  # the root mean square of ⟨x⟩_data − ⟨x⟩_model
    centres: dict[str, Tensor]
    x: Tensor  # the chains  # (chain, site)


@runtime_checkable
class HasContrastiveStep(Protocol):
    """A model that, where it is small, makes a step of contrastive learning for less than its parts."""

    def contrastive_step(
        self, data: Tensor, chains: Chained, centres: dict[str, Tensor], pace: Pace, key: Key
    ) -> Stepped | None:
        """Make a step along the centred contrast of images and chains, or return None: nothing is done then.

        Args:
            data: Images  # (image, visible), ±1
            chains: Where they start; they draw the random numbers that `BlockGibbs` would.
            centres: Of the units that each bias belongs to, before the step; none for 0.
            pace: Its length.
            key: The stream.
        """
        ...


@runtime_checkable
class HasClimb(Protocol):
    """A model that goes along its centred gradient, weight decay included, for less than its parts."""

    def climb(self, difference: dict[str, Tensor], centres: dict[str, Tensor], pace: Pace) -> float | None:
        """Change the parameters, if the direction is finite, and return its length; or do nothing, and None.

        Args:
            difference: ⟨s⟩_data − ⟨s⟩_θ, by parameter; may be changed.
            centres: Of the units that each bias belongs to, by bias; none for 0.
            pace: How far it goes.
        """
        ...


@runtime_checkable
class HasReference(Protocol):
    """A path P_β(x) ∝ exp(−βE(x) − E_0(x)) that starts from a distribution other than the uniform one."""

    log_z_reference: float  # log Σ_x exp(−E_0(x)), nats

    def reference_energy(self, x: Tensor) -> Tensor:  # (replica, site) -> (replica,)
        """Return E_0(x) in nats."""
        ...

    def draw_reference(self, n: int, generator: torch.Generator) -> Tensor:  # -> (n, site)
        """Return n independent draws at β = 0."""
        ...


@runtime_checkable
class HasLogUnnormalised(Protocol):
    """A model of visible sites whose log probability is known but for log Z (hidden units summed out)."""

    def log_unnormalised(self, x: Tensor) -> Tensor:  # (image, visible) -> (image,)
        """Return log Σ_z exp(−E(x, z)) in nats."""
        ...


@runtime_checkable
class HasLogUnnormalisedBound(Protocol):
    """A model of visible sites of whose log probability, but for log Z, a lower bound is known."""

    def log_unnormalised_bound(self, x: Tensor) -> Tensor:  # (image, visible) -> (image,)
        """Return what log Σ_z exp(−E(x, z)) is at least, in nats."""
        ...


@runtime_checkable
class HasMeanField(Protocol):
    """A deep machine: given an image its hidden layers are not independent, but have a mean field."""

    n_visible: int  # the first sites of block 0; then come the other even layers
    blocks: tuple[slice, slice]

    def mean_field(self, x: Tensor) -> list[Tensor]:
        """Return the means of x and of each hidden layer  # (image, visible) -> (image, units) each."""
        ...

    def energy(self, x: Tensor) -> Tensor:
        """Return E of whole configurations  # (replica, site) -> (replica,), nats."""
        ...

    def conditional(self, block: int, x: Tensor, beta: Tensor) -> Tensor:
        """Return P_β(+1 | the other block) for each site of `block`  # (replica, sites of the block)."""
        ...


@runtime_checkable
class HasStatistics(Protocol):
    """An energy model that says of what the averages over data and over itself are to be equal.

    The gradient of its mean log-likelihood is ⟨s⟩_data − ⟨s⟩_θ, s(x) = −⟨∂E/∂θ⟩_z|x, a tensor a parameter.
    """

    weight_names: tuple[str, ...]  # the parameters that weight decay is for; the others are biases

    def statistics(self, x: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return Σ_i w_i s(x_i), hidden units averaged out given x, by parameter  # (image, visible).

        `weights` sum to 1 as a rule; equal if None  # (image,)
        """
        ...


@runtime_checkable
class HasJointStatistics(Protocol):
    """A model whose averages over itself come from whole configurations, hidden units as chains have them.

    Without it the visible sites, which come first, are taken and the hidden ones averaged out.
    """

    def joint_statistics(self, x: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return −Σ_i w_i ∂E(x_i)/∂θ by parameter  # (replica, site)."""
        ...


@runtime_checkable
class HasCentres(Protocol):
    """A model with statistics whose gradient can be taken about the means of its units."""

    def centred(
        self, difference: dict[str, Tensor], penalty: dict[str, Tensor], centres: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the ascent direction of the model whose units have their centres taken off.

        Args:
            difference: ⟨s⟩_data − ⟨s⟩_θ, by parameter.
            penalty: What weight decay takes off, by name of `weight_names`.
            centres: Of the units that each bias belongs to, by bias.
        """
        ...


@runtime_checkable
class HasFirstGuess(Protocol):
    """A model that has a better start than its constructor's, once it has seen data."""

    def first_guess(self, x: Tensor, key: Key) -> None:
        """Set the parameters, if they are untrained  # (image, visible).

        Raises:
            InputError: images that are not in the model's domain.
        """
        ...


@runtime_checkable
class HasCurvatureBound(Protocol):
    """An energy model that is linear in its parameters: the likelihood's curvature is bounded everywhere."""

    @property
    def curvature_bound(self) -> float:
        """Return sup_θ λ_max(Cov_θ[−∂E/∂θ]); 1 over it is a step that never lowers the likelihood."""
        ...


@runtime_checkable
class HasReconstruction(Protocol):
    """A model that gives images back from what its hidden units keep of them."""

    def reconstruct(self, x: Tensor) -> Tensor:  # (image, visible) twice
        """Return ⟨x⟩ given the hidden units' means given x."""
        ...


@runtime_checkable
class HasFlipCosts(Protocol):
    """A model of spins for which all single flips are cheaper together than one by one."""

    def flip_costs(self, x: Tensor) -> Tensor:  # (image, visible) -> (image, visible)
        """Return log q(x) − log q(x^i), x^i being x with site i flipped, in nats."""
        ...


@runtime_checkable
class HasLogProb(Protocol):
    """A model whose likelihood is tractable."""

    def log_prob(self, x: Tensor) -> Tensor:  # (image, site) -> (image,)
        """Return log q_θ(x) in nats (a density where `domain` is grey)."""
        ...


@runtime_checkable
class HasElbo(Protocol):
    """A model with a lower bound on its likelihood."""

    def elbo(self, x: Tensor, generator: torch.Generator) -> Tensor:  # (image, site) -> (image,)
        """Return one unbiased draw of the evidence lower bound of each image, in nats."""
        ...


@runtime_checkable
class HasLoss(Protocol):
    """A model that learns by gradients of a loss of its own.

    `loss` may name two arguments more and is then given them: `labels`, the class of each image, where
    batches are Labelled (n_classes > 0), and `step`, how many steps have been taken, where the loss changes
    with them. It draws with `streams.normal`, `uniform` and `stratified`, which know what part of a batch
    x is.
    """

    def loss(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what to lower and figures to show, each a mean over the images  # (image, site)."""
        ...


@runtime_checkable
class HasClasses(Protocol):
    """A model of images of known classes 0 … n_classes − 1; without classes n_classes is 0."""

    n_classes: int


@runtime_checkable
class HasSides(Protocol):
    """A bipartite energy model: given the visible units the hidden ones are independent, and the reverse."""

    n_visible: int
    n_hidden: int


@runtime_checkable
class HasMarginals(Protocol):
    """An energy model of two blocks of sites, either of which is summed out given the other."""

    n_visible: int  # the first sites of block 0; all of it where the hidden units are one layer
    blocks: tuple[slice, slice]

    def log_marginal(self, block: int, side: Tensor, beta: float = 1.0) -> Tensor:
        """Return log Σ exp(−βE) over the other block, given the values `side` of `block`, in nats."""
        ...


@runtime_checkable
class HasLogWeights(Protocol):
    """A latent-variable model whose likelihood importance sampling bounds."""

    def log_weights(self, x: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        """Return log q(x, z) − log q(z|x) at samples of z  # (image, site) -> (image, sample), nats."""
        ...


@runtime_checkable
class HasEncoded(Protocol):
    """A latent-variable model whose encoder draws z from an image and standard normal numbers."""

    n_latent: int  # how many of them

    def encode(self, x: Tensor) -> Any:
        """Return what the encoder makes of images, once for all draws  # (image, site)."""
        ...

    def log_weight(self, x: Tensor, encoded: Any, eps: Tensor) -> Tensor:
        """Return log q(x, z) − log q(z|x) at z = z(ε)  # (image, site), (image, n_latent) -> (image,)."""
        ...


@runtime_checkable
class HasBoundTerms(Protocol):
    """A diffusion model: its bound is the sum of three costs."""

    T: int | None  # noise levels; None in continuous time

    def bound_terms(self, x: Tensor, generator: torch.Generator, n_times: int = 1) -> Sequence[Tensor]:
        """Return draws of reconstruction, prior and matching  # (image, site) -> (image,) each, nats."""
        ...


@runtime_checkable
class HasFlow(Protocol):
    """A diffusion model: its probability flow carries data to normal noise and back, and has a density."""

    noise: Any  # its `table(n)` gives γ = −log SNR from the least noise to the most
    levels: int

    def drift(self, z: Tensor, gamma: float) -> Tensor:
        """Return dz/dγ  # (image, site) twice."""
        ...

    def encode(self, x: Tensor) -> Tensor:
        """Return f(x), the data to which noise is added  # (image, site) twice."""
        ...

    def log_reconstruction(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log q(x|z) given data with the least noise  # (image, site) twice -> (image,), nats."""
        ...


@runtime_checkable
class HasPictures(Protocol):
    """A model whose samples come with pixel probabilities that show what they are samples of.

    `pictures` may take options, which `genmodels.ways` offers: n_steps, method, labels, guidance; radius.
    """

    def pictures(self, streams: Streams) -> tuple[Tensor, Tensor]:
        """Return a sample a stream and its pixels' means at an earlier step  # (picture, site) twice."""
        ...


@runtime_checkable
class ReadsPrompts(Protocol):
    """A model of pictures given texts; `genmodels.prompts` asks it for some."""

    text_encoder: dict[str, Any] | None

    def paint(
        self, streams: Streams, texts: Any, negative: Any, guidance: float, n_steps: int, method: str
    ) -> tuple[Tensor, Tensor]:
        """Return a picture a stream in levels, and one to look at  # (picture, site) twice."""
        ...


@runtime_checkable
class HasFilters(Protocol):
    """A model whose hidden units look at images through weights that can be shown as images."""

    def filters(self) -> Tensor:  # -> (unit, visible)
        """Return the weights of each hidden unit next to the image."""
        ...


@runtime_checkable
class CanSample(Protocol):
    """A model that draws independent samples without a Markov chain."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:  # -> (n, site)
        """Return n samples in the model's domain."""
        ...


@runtime_checkable
class HasComponents(Protocol):
    """A Gaussian, or a mixture of Gaussians."""

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights (component,), means (component, site), covariances (component, site, site)."""
        ...


State = TypeVar("State")


class Info(NamedTuple):
    """What happened during `advance`."""

    n_updates: int  # attempted single-site updates, over all replicas
    acceptance: float  # mean acceptance probability (1 for Gibbs)
    n_nonfinite: int = 0


class Kernel(Protocol[State]):
    """A Markov transition that leaves exp(−βE − E_0) invariant; a frozen dataclass of its settings.

    Its state is opaque but for `energy`, E of every replica  # (replica,), nats at β = 1
    """

    @property
    def detailed_balance(self) -> bool:
        """Return whether one update (of a site, a block, a proposal) satisfies it; balance always holds."""
        ...

    def init(self, model: Any, n_replicas: int, key: Key) -> State:
        """Return independent replicas at β = 0, drawn from the reference."""
        ...

    def start(self, model: Any, x: Tensor) -> State:
        """Return the state of given configurations  # (replica, site)."""
        ...

    def advance(self, model: Any, state: State, beta: Tensor, n_sweeps: int, key: Key) -> tuple[State, Info]:
        """Advance every replica by `n_sweeps` sweeps; `state` is left untouched.

        `beta` is (replica,), replica r at beta[r], or a schedule (sweep, replica): sweep t at beta[t].
        """
        ...

    def configuration(self, state: State) -> Tensor:
        """Return the configurations  # (replica, site)."""
        ...

    def select(self, state: State, index: Tensor) -> State:
        """Return the state whose replica r is `state`'s replica index[r] (resampling)."""
        ...


class Sampler(Protocol):
    """An algorithm that moves chains through temperature; a frozen dataclass of its settings."""

    def run(
        self,
        model: Any,
        kernel: Kernel[Any],
        key: Key,
        placement: "Placement",
        progress: Callable[..., bool | None] | None = None,
    ) -> Any:
        """Return what was measured.

        Args:
            model: With an energy and what the kernel asks for; with a reference if it is a path.
            kernel: What moves the replicas at fixed β.
            key: The stream of the run.
            placement: Where the shards run; it does not change a bit of the result.
            progress: Called as progress(done, total, **figures). Once it returns True no more work is
                started, and the result holds what all shards have done by then.

        Raises:
            FloatingPointError: an energy is not finite.
        """
        ...


class SamplerResult(Protocol):
    """What every sampler returns, beside its own measurements."""

    betas: Tensor  # (rung or step,), float64, rising
    log_z_0: float  # at β = 0, exact, nats
    best_energy: float  # the lowest met, nats at β = 1
    best_x: Tensor  # (site,), its configuration
    n_updates: int  # attempted single-site updates

    def tensors(self) -> dict[str, Tensor]:
        """Return what is worth keeping, by name."""
        ...

    def summary(self) -> dict[str, Any]:
        """Return how well it went, JSON-ready."""
        ...


class Progress(NamedTuple):
    """What `fit` yields after each step."""

    step: int  # steps done so far
    n_steps: int
    metrics: dict[str, float]
    state: Any = None  # the learner's, for `Learner.tensors`
    n_images: int = 0  # that the step saw
    waited: float = 0.0  # seconds, for them


class Learner(Protocol[State]):
    """A learning rule: pure but for the model's parameters, which `step` changes in place."""

    def init(self, model: Any) -> State:
        """Return the state before the first step."""
        ...

    def step(self, model: Any, state: State, batch: Any, key: Key) -> tuple[State, dict[str, float]]:
        """Return the state after one step on `batch`, and its metrics; `key` is the step's own.

        A batch is a Tensor  # (image, site), or Labelled for learners that know what to do with classes.
        """
        ...

    def tensors(self, state: State) -> dict[str, Tensor]:
        """Return the state as named tensors for a checkpoint."""
        ...

    def restore(self, model: Any, tensors: dict[str, Tensor]) -> State:
        """Return the state that `tensors` wrote."""
        ...


class Placement(Protocol):
    """Where shards of work run. Shard functions are pure: (state, *small) -> (state, small result)."""

    @property
    def n_workers(self) -> int:
        """Number of processes that work, 0 if it is this one."""
        ...

    @property
    def n_failures(self) -> int:
        """Number of tasks that had to be done again because their worker was lost."""
        ...

    @property
    def gpus(self) -> float:
        """Share of a GPU that each task has, 0 for none."""
        ...

    @property
    def room(self) -> int:
        """Number of tasks that may be under way at once: enough for all workers to be busy, and no more."""
        ...

    def put(self, state: Any) -> Any:
        """Return a handle to `state` where the workers can reach it."""
        ...

    def submit(self, fn: Callable[..., tuple[Any, Any]], handle: Any, *small: Any) -> tuple[Any, Any]:
        """Start fn(state of handle, *small); return handles of the new state and of the small result.

        Where there is no room left this waits until there is.
        """
        ...

    def wait(self, handles: Sequence[Any]) -> Sequence[int]:
        """Return the indices of the handles that are complete or failed, at least one if there are any."""
        ...

    def fetch(self, handle: Any) -> Any:
        """Return the value behind a handle."""
        ...

    def close(self) -> None:
        """Give back what the workers hold."""
        ...
