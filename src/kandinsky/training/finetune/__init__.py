"""Fine-tuning a checkpoint: adapters, all weights, a subject, a word, or fewer steps."""
