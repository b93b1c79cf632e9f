"""A small classifier of real pictures, for the features that it makes of pictures."""

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.neural_network import MLPClassifier

from genmodels.errors import InputError
from genmodels.estimate import Estimate, of_share
from genmodels.streams import Key


class Features(NamedTuple):
    """A perceptron with rectified units; the last hidden layer is what it makes of a picture.

    Attributes:
        weights: Of each layer  # (unit, unit of the next layer)
        biases: Of each layer  # (unit of the next layer,)
        labels: What its outputs stand for  # (class,)
        clusters: Whether they are clusters, of pictures without labels.
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    labels: np.ndarray
    clusters: bool

    def of(self, pixels: np.ndarray) -> np.ndarray:
        """Return the last hidden layer  # (picture, site), levels from 0 to 1 -> (picture, feature)."""
        layer = np.asarray(pixels, dtype=np.float64)
        for weights, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            layer = np.maximum(layer @ weights + bias, 0.0)
        return layer

    def classes(self, pixels: np.ndarray) -> np.ndarray:
        """Return the likeliest class of each picture  # (picture, site) -> (picture,)."""
        scores = self.of(pixels) @ self.weights[-1] + self.biases[-1]
        places = scores.argmax(1) if scores.shape[1] > 1 else (scores[:, 0] > 0.0).astype(int)
        found: np.ndarray = self.labels[places]
        return found

    def share(self, pixels: np.ndarray, labels: np.ndarray) -> Estimate:
        """Return the share of pictures whose class is right  # (picture, site), (picture,)."""
        hits, n = int((self.classes(pixels) == labels).sum()), len(labels)
        return of_share(hits, n, unit="share", method=f"{self.words()}, on held-out images")

    def words(self) -> str:
        """Return what the features are, for the name of a space."""
        what = "clusters" if self.clusters else "classes"
        return f"{len(self.biases[-2])} features of a classifier of {len(self.labels)} {what}"

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all of it by name, for a file."""
        layers = {f"weights_{i}": each for i, each in enumerate(self.weights)}
        layers |= {f"biases_{i}": each for i, each in enumerate(self.biases)}
        return layers | {"labels": self.labels, "clusters": np.array(self.clusters)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Features":
        """Return what `arrays` described."""
        n = sum(name.startswith("weights_") for name in arrays)
        layers = [tuple(arrays[f"{kind}_{i}"] for i in range(n)) for kind in ("weights", "biases")]
        return cls(layers[0], layers[1], arrays["labels"], bool(arrays["clusters"]))


def learn(
    pixels: np.ndarray, labels: np.ndarray, key: Key, hidden: list[int], n_clusters: int, n_epochs: int
) -> Features:
    """Return a classifier of real pictures, by scikit-learn's perceptron and Adam.

    Where some picture has no label its classes are clusters, found by k-means: what it learns then still
    tells apart what is far from each other, and `words` says so.

    Args:
        pixels: Levels from 0 to 1  # (picture, site)
        labels: −1 where there is none  # (picture,)
        key: Of first weights, order and clusters.
        hidden: Units of each hidden layer.
        n_clusters: Where there are no labels.
        n_epochs: At most; it ends before where the loss no longer falls.

    Raises:
        InputError: pictures of one class only.
    """
    clusters = bool((labels < 0).any())
    seed = int(key.numpy().integers(2**31))
    if clusters:
        n = min(n_clusters, len(np.unique(pixels, axis=0)))
        labels = KMeans(n, n_init=1, random_state=seed).fit_predict(np.asarray(pixels, dtype=np.float64))
    if len(np.unique(labels)) < 2:
        raise InputError("classifier: needs pictures of two classes or more")
    machine = MLPClassifier(
        tuple(hidden), alpha=1e-3, max_iter=n_epochs, random_state=seed, n_iter_no_change=n_epochs
    )
    # Of scikit-learn's wish for more epochs nobody is to be told.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        machine.fit(np.asarray(pixels, dtype=np.float64), labels)
    classes = np.asarray(machine.classes_, dtype=np.int64)
    return Features(tuple(machine.coefs_), tuple(machine.intercepts_), classes, clusters)
