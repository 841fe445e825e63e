"""Deployment, which training never needs: export, quantisation, runtimes and benchmarks."""
