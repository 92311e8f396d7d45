"""Whether rows are still like those that a model was fitted on: profiles, and drift from them."""
