"""KServe's messages and tensors as values, and a slimmable family as the one model that clients see; pure."""
