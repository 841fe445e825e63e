"""What a trained model needs to run elsewhere: export, quantisation, runtimes, and what it costs."""
