"""One learning rule a file, and the one `fit` loop that serves all of them."""

LEARNERS = {
    "closed_form": "genmodels.learners.closed_form:ClosedForm",
    "expectation_maximisation": "genmodels.learners.expectation_maximisation:ExpectationMaximisation",
    "persistent_contrastive_divergence": "genmodels.learners.persistent_contrastive_divergence:PersistentContrastiveDivergence",
    "gradient": "genmodels.learners.gradient:Gradient",
}
