"""How the bundled demo model is made: corpus, tokenizer, training form of the network, training, export."""
