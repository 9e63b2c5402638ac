import dynamics.flow.published_laws  # noqa: F401  (laws join their family by being defined)
