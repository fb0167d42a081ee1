"""Scripts run from a checkout: training, export, evaluation, benchmarks; never imported by peer/ or runtime/."""
