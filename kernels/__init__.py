"""Every compiled line, and the contract that the rest of edgerev has with them."""
