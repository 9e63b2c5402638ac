import dynamics.flow.separate_draws  # noqa: F401  (laws join their family by being defined)
