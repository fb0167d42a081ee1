"""Fine-tuning with codes in the loop: ASTRA (arXiv 2505.19342v2) and what goes beyond it."""
