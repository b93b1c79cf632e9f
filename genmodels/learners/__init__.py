"""One learning rule a file, and the one `fit` loop that serves all of them."""

LEARNERS = {
    "closed_form": "genmodels.learners.closed_form:ClosedForm",
    "expectation_maximisation": "genmodels.learners.expectation_maximisation:ExpectationMaximisation",
    "exact": "genmodels.learners.exact:Exact",
    "monte_carlo": "genmodels.learners.monte_carlo:MonteCarlo",
    "contrastive_divergence": "genmodels.learners.contrastive_divergence:ContrastiveDivergence",
    "persistent_contrastive_divergence": "genmodels.learners.persistent_contrastive_divergence:PersistentContrastiveDivergence",
    "tempered": "genmodels.learners.tempered:Tempered",
    "minimum_probability_flow": "genmodels.learners.minimum_probability_flow:MinimumProbabilityFlow",
    "pseudo_likelihood": "genmodels.learners.pseudo_likelihood:PseudoLikelihood",
    "gradient": "genmodels.learners.gradient:Gradient",
}
