"""The command `genmodels anneal`: couplings in; ground state, log Z(β) and diagnostics out."""
