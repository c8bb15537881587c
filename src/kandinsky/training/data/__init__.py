"""Images with captions: folders, the caption grammar, batches, and the tokenizer trained on them."""
