"""What a model needs and how fast hardware can be at best: `loopserve plan`, and the roofline behind it. Torch-free."""
